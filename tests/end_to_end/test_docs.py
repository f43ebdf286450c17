"""Every command in the documents: known here, with options that exist; and a new user's path, by docs/fit.md."""

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from dist_plm.__main__ import MODULES
from dist_plm.errors import UserError
from tests.commands import ROOT, command_module, on_ranks, together
from tests.end_to_end.conftest import events

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("launch/*.md"), *ROOT.glob("benchmarks/*.md")]
)

# What is not checked further, and why.
OTHER_PROGRAMS = {
    "pip": "the network; its extras are checked",
    "git": "not ours",
    "ruff": "not ours",
    "mypy": "not ours",
    "pytest": "this is one",
    "tensorboard": "runs until it is stopped",
    "sbatch": "a cluster",
    "squeue": "a cluster",
    "scancel": "a cluster",
    "scontrol": "a cluster",
    "sinfo": "a cluster",
    "sacct": "a cluster",
    "srun": "a cluster",
    "wandb": "an account",
    "kill": "a process",
    "curl": "a server",
    "apt-get": "the machine",
    "mount": "the machine",
    "cd": "a folder",
    "tail": "a file",
    "module": "a cluster",
}
STARTS = {*OTHER_PROGRAMS, "python", "torchrun", "make", "dist-plm"}


def commands() -> list[tuple[str, str]]:
    """(document, command) of all code blocks, fenced or indented, and of what stands between ticks in the text."""
    found = []
    for path in DOCUMENTS:
        blocks = re.findall(r"```(?:bash|sh)?\n(.*?)```", text := path.read_text(), re.S)
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        blocks += re.findall(r"(?:^|\n\n)((?: {4}.*\n)+)", prose)
        for block in blocks:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                line = re.sub(r"\s+(#|\(commit).*$", "", line.strip().removeprefix("$ "))
                line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)
                if line.split(" ")[0] in STARTS:
                    found += [(path.name, part.strip()) for part in line.split("&&")]
        for line in re.findall(r"(?<!`)`((?:python|torchrun) [^`]*(?:-m |\.py)[^`]*|dist-plm [a-z][^`]*)`", prose):
            found.append((path.name, re.sub(r"[\[\]]", " ", line.replace("\n", " "))))  # [--optional]
    return found


COMMANDS = commands()


def help_of(module: str, *words: str) -> str:
    """What `words --help` prints, in this interpreter."""
    printed = io.StringIO()
    before = sys.argv
    try:
        for option in ("--help", "--help-all"):  # the second where there are more than a few
            sys.argv = [module, *words, option]
            with (
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(None),
                contextlib.suppress(SystemExit, UserError),
            ):
                importlib.import_module(command_module(module)).main()
    finally:
        sys.argv = before
    return printed.getvalue()


def target(words: list[str]) -> tuple[str, list[str]]:
    """The module that a `python` or `torchrun` line starts, and its arguments."""
    if words[0] == "dist-plm":
        length = 2 if " ".join(words[1:3]) in MODULES else 1
        module = MODULES[" ".join(words[1 : 1 + length])]
        return module.removesuffix(".__main__"), words[1 + length :]
    if "-m" in words:
        at = words.index("-m") + 1
        return words[at], words[at + 1 :]
    at = next(number for number, word in enumerate(words) if word.endswith(".py"))
    return words[at].removesuffix(".py").replace("/", "."), words[at + 1 :]


@pytest.mark.parametrize(("document", "command"), sorted(set(COMMANDS)), ids=lambda value: value[:60])
def test_a_command_is_known(document: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"\[([\w,]+)\]", command)
        assert {name for names in asked for name in names.split(",")} <= extras.keys()
        return
    if words == ["dist-plm"]:
        return
    unfinished = "..." in words
    if unfinished or words[0] in OTHER_PROGRAMS or (words[0] == "python" and words[1:2] == ["-c"]):
        return
    module, arguments = target(words)
    if not module.startswith(("dist_plm.", "shards.", "launch.", "benchmarks.")):
        assert importlib.util.find_spec(module), module
        return
    assert (ROOT / (command_module(module).replace(".", "/") + ".py")).is_file(), f"{document}: {module} does not exist"
    if (
        module.startswith("benchmarks.")
        and "argparse" not in (ROOT / (command_module(module).replace(".", "/") + ".py")).read_text()
    ):
        return
    text = help_of(module)
    word = re.escape(arguments[0]) if arguments else "-"
    if re.search(rf"[{{,]{word}[,}}]|^ {{4}}{word} ", text, re.M):  # a command of its own
        text += help_of(module, arguments[0])
    flags = {word.split("=")[0] for word in arguments if word.startswith("--") and " " not in word}
    if any(flag.count(".") for flag in flags) or module == "launch.slurm":
        text += help_of("dist_plm.train")
    missing = {flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w-])", text)}
    assert not missing, f"{document}: {command}: no option {', '.join(missing)}"
    for flag, value in pairwise(arguments):
        if flag == "--config" and value.startswith("configs/"):
            assert (ROOT / value).is_file(), f"{document}: {value} does not exist"


def test_there_are_commands():
    assert len(COMMANDS) > 20
    assert {"README.md", "data.md"} <= {document for document, _ in COMMANDS}


SMALL = (
    "--views.size 16 --views.resize 20 --model.backbone small --model.weights '' --model.dim 16 --batch.groups 2 "
    "--batch.group_size 5 --proxies.count 7 --train.epochs 1 --train.log_steps 1 --warm_up.epochs 1 --data.workers 1 "
    "--runtime.threads 1 --runtime.device cpu"
)


def photos(folder: Path) -> Path:
    """Two splits of four classes, ten coloured images each."""
    for split, first in (("train", 0), ("test", 4)):
        for label in range(first, first + 4):
            for number in range(10):
                path = folder / split / f"kind {label}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (30, 24), (28 * label, 25 * number, 255 - 20 * label)).save(path)
    return folder


def test_a_new_user_s_path(tmp_path):
    """Own images -> shards -> training -> recall -> index -> search -> report, by the lines of docs/fit.md."""
    section = (ROOT / "docs/fit.md").read_text().split("## By hand")[1]
    block = re.sub(r"\\\n\s*", "", re.findall(r"```bash\n(.*?)```", section, re.S)[0])
    lines = [re.sub(r"\s+#.*$", "", line) for line in block.splitlines()]
    assert [target(shlex.split(line))[0].split(".")[-1] for line in lines] == [
        "build", "train", "evaluate", "embed", "search", "report"
    ]  # fmt: skip
    source = photos(tmp_path / "PHOTOS")
    for line in lines:
        line = re.sub(r"(configs/\w+\.yaml)", rf"{ROOT}/\1", line.replace("QUERY.jpg", "'PHOTOS/test/kind 5/3.jpg'"))
        words = shlex.split(line)
        module, arguments = target(words)
        if module == "dist_plm.train":
            assert words[:3] == ["torchrun", "--standalone", "--nproc_per_node"]
            arguments += shlex.split(SMALL)
        ranks = on_ranks(2 if words[0] == "torchrun" else 1, module, *arguments, folder=tmp_path)
        outcome = together(ranks)
        assert outcome.status == 0, f"{line}\n{outcome.err}"
        if module == "dist_plm.search":
            assert "kind 5" in outcome.out, outcome.out
    assert source.is_dir() and (tmp_path / "neighbours.png").stat().st_size > 1_000
    assert (tmp_path / "runs/photos/report.html").stat().st_size > 500_000
    assert events(tmp_path / "runs/photos", "end")


def test_the_citation_is_whole():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "version", "preferred-citation"} <= citation.keys()
    import dist_plm

    assert (
        citation["version"] == dist_plm.__version__
        and f"## {dist_plm.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    )
