"""`--help` answers at once: no command imports what takes seconds before it has read its arguments."""

import subprocess
import sys

from tests.commands import ROOT

HEAVY = ("torch", "torchvision", "faiss", "deepspeed", "scipy", "sklearn", "webdataset", "matplotlib")
# All commands in one interpreter, which takes half a second; each is asked for its help as a person asks.
ASK = f"""
import contextlib, importlib, io, sys
from pathlib import Path
commands = [path.stem for path in Path("dist_plm").glob("*.py") if "__main__" in path.read_text()]
commands += [path.parent.name + ".__main__" for path in Path("dist_plm").glob("*/__main__.py")]
assert len(commands) >= 10
names = ["dist_plm." + name for name in commands] + ["launch.slurm", "shards.build", "shards.verify"]
for name in names:
    before, sys.argv = set(sys.modules), [name, "--help"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            importlib.import_module(name).main()
    except SystemExit as leaving:
        assert not leaving.code, (name, leaving.code)
    assert "usage" in printed.getvalue(), name
    heavy = [module for module in {HEAVY!r} if module in sys.modules and module not in before]
    assert not heavy, f"{{name}} --help imports {{heavy}}"
print(len(names))
"""


def test_help_imports_nothing_heavy():
    asked = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0, asked.stderr
    assert int(asked.stdout) >= 13
