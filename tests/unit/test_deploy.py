"""Dockerfile, Apptainer recipe and CPU-only requirements: read as their programs read them, against the checkout."""

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch

import pytest

from tests.commands import ROOT

INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "EXPOSE", "ENTRYPOINT", "CMD"}
SECTIONS = {"arguments", "files", "post", "runscript", "test"}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path at the top into the build; the last rule that matches counts."""
    rules = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule and not rule.startswith("#")]
    matching = [rule for rule in rules if fnmatch(path, rule.removeprefix("!"))]
    return not matching or matching[-1].startswith("!")


def test_the_dockerfile_copies_what_is_there():
    found = instructions()
    assert found[0][0] == "FROM" and {name for name, _ in found} <= INSTRUCTIONS
    copied = [word for name, line in found if name == "COPY" for word in line.split()[:-1]]
    assert {"dist_plm", "configs", "pyproject.toml", "constraints.txt"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists() and in_context(path.split("/")[0]), path
    assert not in_context("data") and not in_context("runs") and not in_context(".git") and not in_context(".venv")


def test_the_entry_point_is_the_console_script():
    words = {name: json.loads(line) for name, line in instructions() if name in ("ENTRYPOINT", "CMD")}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert words["ENTRYPOINT"] == [*scripts] and words["CMD"] == ["--help"]


@pytest.mark.parametrize("file", ["Dockerfile", "deploy/apptainer.def"])
def test_shell_lines_are_whole(file):
    text = (ROOT / file).read_text()
    assert "://" not in text, "no registry is named"
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        shlex.split(line.split("#")[0].replace("{{ TORCH_INDEX }}", "URL"))
    assert text.count("if [") == len(re.findall(r"\bfi\b", text)) == 1


def test_the_apptainer_recipe_copies_the_same():
    text = (ROOT / "deploy/apptainer.def").read_text()
    assert text.startswith("Bootstrap: docker\nFrom: ")
    assert set(re.findall(r"^%(\w+)", text, re.M)) == SECTIONS
    files = re.search(r"%files\n(.*?)\n\n", text, re.S)
    copied = {line.split()[0] for line in files[1].splitlines()}
    assert copied == {word for name, line in instructions() if name == "COPY" for word in line.split()[:-1]} | {
        "deploy/requirements-cpu.txt"
    }


def test_the_requirements_of_a_cpu_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [each.partition(";")[0].strip() for each in project["dependencies"]]
    wanted = [each for each in wanted if not re.match(r"(torch|torchvision|faiss-gpu)\b", each)]
    wanted += [each for name in ("heic", "report", "serve", "timm") for each in extras[name]]
    lines = (ROOT / "deploy/requirements-cpu.txt").read_text().splitlines()
    assert sorted(line for line in lines if line and not line.startswith("#")) == sorted(wanted)
    assert extras["fit"] == ["dist_plm[heic,report,serve,timm]"]
