"""How many faults the tests notice: `python -m tests.mutation [WORD ...]` runs the table of tests/mutants.py.

Each mutant is made in a copy of the project and its tests run there until one fails. With words, only mutants whose
file holds one of them. Status 1 where a mutant survives. Not part of `make test`.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("benchmarks", "configs", "dist_plm", "docs", "launch", "pyproject.toml", "shards", "tests")
LIMIT_SECONDS = 600  # a mutant may hang, which is noticed too


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


def is_noticed(copy: Path, mutant: Mutant) -> bool:
    path = copy / "dist_plm" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"tests/mutants.py: {mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new))
    for test in mutant.tests:
        if status(copy, [test]):
            break
    else:
        test = ""
    path.write_text(text)
    return bool(test)


def main(words: list[str]) -> int:
    """Print the survivors and the score."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.file for word in words)]
    survivors = 0
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    import torch._dynamo  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "copy")
        copy.mkdir()
        for part in PARTS:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, copy / part)
        if status(copy, sorted({test for mutant in chosen for test in mutant.tests})):
            raise SystemExit(f"the tests fail without any mutant:\n{(copy / 'output').read_text()}")
        for number, mutant in enumerate(chosen, start=1):
            began, noticed = time.monotonic(), is_noticed(copy, mutant)
            survivors += not noticed
            verdict = f"{'noticed' if noticed else 'SURVIVED'} after {time.monotonic() - began:.0f} s"
            print(f"{number}/{len(chosen)} {mutant.file}: {mutant.old!r} -> {mutant.new!r}: {verdict}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants noticed")
    return min(1, survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
