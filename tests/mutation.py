"""How many faults the tests notice: `python -m tests.mutation [WORD ...]` runs the tables of tests/mutants.py and
tests/mutants_of_defences.py.

Each mutant is made in a copy of the project and its tests run there until one fails. With words, only mutants whose
file or tests hold one of them. Status 1 unless all are noticed. Not part of `make test`.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants import MUTANTS, Mutant
from tests.mutants_of_defences import DEFENCES

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("benchmarks", "configs", "dist_plm", "docs", "launch", "pyproject.toml", "shards", "tests")
LIMIT_SECONDS = 600  # for the tests of one file; a mutant that hangs is undecided


def status(copy: Path, tests: list[str]) -> int:
    """How pytest ends in the copy: 0 where all tests pass, 1 where one fails. In a fork, which has torch already."""
    pid = os.fork()
    if not pid:
        output = os.open(copy / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.setpgid(0, 0)
        signal.alarm(LIMIT_SECONDS)
        os.chdir(copy)
        # Byte code is told apart by size and second, which a mutant may share with what it replaces.
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)])))
    _, ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended)


def verdict(copy: Path, mutant: Mutant) -> str:
    """`noticed` where a test fails, `survived` where all pass, `undecided` where one was stopped before it ended."""
    path = copy / "dist_plm" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"tests/mutants*.py: {mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new))
    found = "survived"
    for test in mutant.tests:
        ended = status(copy, [test])
        if ended > 0:
            found = "noticed"
            break
        if ended < 0:
            found = "undecided"
    path.write_text(text)
    return found


def main(words: list[str]) -> int:
    """Print what became of each mutant, and the score."""
    chosen = [
        mutant
        for mutant in MUTANTS + DEFENCES
        if not words or any(word in part for word in words for part in (mutant.file, *mutant.tests))
    ]
    count = {"noticed": 0, "survived": 0, "undecided": 0}
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    import torch._dynamo  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "copy")
        copy.mkdir()
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, copy / part)
        for command in (["init", "-q"], ["add", "-A"]):  # a test asks git for the files of the package
            subprocess.run(["git", *command], cwd=copy, check=True)
        for test in sorted({test for mutant in chosen for test in mutant.tests}):
            if status(copy, [test]):
                raise SystemExit(f"{test} fails without any mutant:\n{(copy / 'output').read_text()}")
        for number, mutant in enumerate(chosen, start=1):
            began, found = time.monotonic(), verdict(copy, mutant)
            count[found] += 1
            took = f"{time.monotonic() - began:.0f} s"
            print(
                f"{number}/{len(chosen)} {mutant.file}: {mutant.old!r} -> {mutant.new!r}: {found}, {took}", flush=True
            )
    print(f"of {len(chosen)} mutants " + ", ".join(f"{number} {word}" for word, number in count.items()))
    return int(count["noticed"] < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
