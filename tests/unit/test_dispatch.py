"""`dist-plm COMMAND`: one name for all commands."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dist_plm import __main__ as dispatch
from dist_plm.cli import config_of, config_parser, shipped
from dist_plm.cli.config_parser import CONFIGS
from tests.commands import ROOT


def test_every_command_is_listed():
    starts = re.compile(r'if __name__ == "__main__":')
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "dist_plm").rglob("*.py")
        if starts.search(path.read_text())
    }
    assert modules - {"dist_plm.__main__", "dist_plm.fit.part"} == set(dispatch.MODULES.values())
    assert all(len(line) <= 80 for line in dispatch.overview().splitlines())
    assert len(dispatch.overview().splitlines()) < 40, "one screen"


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["trian"], 2, "did you mean train"),
        (["shards"], 2, "shards build, shards verify"),
        (["train", "--confg", "x"], 2, "dist-plm train: unrecognized arguments: --confg x; did you mean config"),
        (["shards", "build", "nothing"], 2, "dist-plm shards build"),
        (["search", "--help"], 0, "usage: dist-plm search"),
        ([], 0, "usage: dist-plm COMMAND"),
    ],
)
def test_words(words, status, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dist-plm", *words])
    try:
        found = dispatch.main()
    except SystemExit as leaving:
        found = leaving.code
    printed = capsys.readouterr()
    assert found == status and said in printed.out + printed.err


def test_the_list_of_commands_imports_nothing():
    ask = "import sys; sys.argv=['dist-plm']; import dist_plm.__main__ as d; d.main(); print(sorted(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "jsonargparse", "numpy"} & set(re.findall(r"'(\w+)'", printed.splitlines()[-1]))


@pytest.mark.parametrize("name", ["cub200_best", "cub200_best.yaml", "configs/cub200_best.yaml"])
def test_a_shipped_configuration_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = config_parser("train", "")
    assert config_of(parser, parser.parse_args(["--config", name])).model.backbone == "bvlc_googlenet"
    assert shipped("clusters/example") == str(CONFIGS / "clusters/example.yaml")
    Path("cub200_best").write_text("seed: 3\n")
    assert shipped("cub200_best") == "cub200_best", "a file of that name comes first"


def test_the_modules_have_a_main():
    for module in set(dispatch.MODULES.values()):
        assert importlib.util.find_spec(module), module
