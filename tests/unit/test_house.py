"""Arrows point down: what a room of the package imports lies below it; the page that says so is up to date."""

import importlib.util

from tests.commands import ROOT
from tests.mutants import MUTANTS
from tests.mutants_of_defences import DEFENCES

_spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/architecture.py")
assert _spec and _spec.loader
architecture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(architecture)


def test_arrows_point_down():
    floor, top = architecture.FLOOR, len(architecture.FLOORS)
    found = architecture.imports()
    up = {(room, other) for room, other in found if floor.get(room, top) <= floor.get(other, top)}
    assert not up, "a command without a floor is above all others"


def test_a_module_at_the_top_is_a_command():
    for path in (ROOT / "dist_plm").glob("*.py"):
        assert path.name == "__init__.py" or "run_command(main)" in path.read_text(), path


def test_the_manifold_knows_nothing_of_the_project():
    found = architecture.imports()
    assert not {other for room, other in found if room == "manifold"}
    assert {other for room, other in found if room == "evaluation"}, "imports are seen"


def test_benchmarks_import_no_tests():
    assert "from tests" not in "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))


def test_the_page_of_the_architecture_is_up_to_date():
    assert architecture.page() == architecture.PAGE.read_text(), "run: python docs/architecture.py"
    rooms = {path.parent.name for path in (ROOT / "dist_plm").glob("*/__init__.py")}
    assert rooms == {room for room in architecture.FLOOR if room != "train"}


def test_files_named_by_the_page_exist():
    named = [part for line in architecture.PAGE.read_text().splitlines() if line.startswith("| ") and "/" in line
             for part in line.split("`")[1::2] if part.endswith((".py", ".html", "/"))]  # fmt: skip
    missing = {name for name in named if not (ROOT / name).exists() and not (ROOT / "dist_plm" / name).exists()}
    assert named and not missing


def test_the_text_that_a_mutant_replaces_stands_once():
    """So that a refactoring takes tests/mutants*.py with it; `python -m tests.mutation` runs the mutants."""
    texts = {path: (ROOT / "dist_plm" / path).read_text() for path in {mutant.file for mutant in MUTANTS + DEFENCES}}
    assert not [mutant for mutant in MUTANTS + DEFENCES if texts[mutant.file].count(mutant.old) != 1]
    assert not [mutant for mutant in MUTANTS + DEFENCES if mutant.old == mutant.new]
    files = {test.partition("::")[0] for mutant in MUTANTS + DEFENCES for test in mutant.tests}
    assert not {file for file in files if not (ROOT / "tests" / file).exists()}
