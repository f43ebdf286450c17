"""Arrows point down: what a room of the package imports lies below it. Imports inside of functions count too."""

import ast

from tests.commands import ROOT

# From the ground up; what stands in one line knows nothing of its neighbours.
FLOORS = (
    {"errors", "config", "files", "manifold"},
    {"telemetry"},
    {"distributed"},
    {"checkpoint"},
    {"parallel"},
    {"cli", "data", "model"},
    {"index"},
    {"methods", "datasets"},
    {"evaluation"},
    {"training"},
    {"encoders", "checks"},
    {"search_index", "report", "bench", "supervision"},
    {"api", "train"},
    {"slurm"},
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


OUTSIDE = {"benchmarks", "launch", "shards", "tests"}


def imports() -> set[tuple[str, str]]:
    """(room, room that it imports) of dist_plm; a command without a floor is above all others."""
    found = set()
    for path in (ROOT / "dist_plm").rglob("*.py"):
        room = path.relative_to(ROOT / "dist_plm").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path}: a room is named in full"
                names = [f"{node.module}.{alias.name}" for alias in node.names if not node.level]
            else:
                continue
            found |= {(room, name.split(".")[1]) for name in names if name.startswith("dist_plm.")}
            found |= {(room, other) for name in names if (other := name.split(".")[0]) in OUTSIDE}
    return {(room, other) for room, other in found if room != other and other != "__version__" and room != "__init__"}


def test_arrows_point_down():
    top = len(FLOORS)
    up = {(room, other) for room, other in imports() if FLOOR.get(room, top) <= FLOOR.get(other, top)}
    assert not up


def test_the_manifold_knows_nothing_of_the_project():
    assert not {other for room, other in imports() if room == "manifold"}
    assert {other for room, other in imports() if room == "evaluation"}, "imports are seen"
