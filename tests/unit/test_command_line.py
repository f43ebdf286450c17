"""Options, files and paths as people type them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_plm.cli import OneLineParser, add_frozen_options, config_of, config_parser, load_config
from dist_plm.cli.config_parser import CONFIGS, KEYS
from dist_plm.cli.spelling import suggestion
from dist_plm.config import Config, StmlConfig
from dist_plm.config.retired import RETIRED
from dist_plm.datasets.build import parser as shard_parser
from dist_plm.errors import UserError
from dist_plm.fit.__main__ import command_line as fit_parser


def parsed(*words: object) -> Config:
    parser = config_parser("train", "")
    return config_of(parser, parser.parse_args([str(word) for word in words]))


def test_an_option_before_the_file_wins(tmp_path: Path) -> None:
    """jsonargparse lets the last of file and option win, so that `--seed 3 --config F` took F's seed."""
    (file := tmp_path / "file.yaml").write_text("seed: 1\nmanifold: {k: 7}\n")
    (later := tmp_path / "later.yaml").write_text("seed: 2\n")
    for words in (("--config", file, "--seed", 3), ("--seed", 3, "--config", file), ("--seed=3", f"--config={file}")):
        config = parsed(*words)
        assert (config.seed, config.manifold.k) == (3, 7), words
    assert parsed("--config", file, "--config", later).seed == 2


def test_only_options_are_keys_that_were_given() -> None:
    """`--data.shards data` gave the whole section `data`, and a folder called `model` all of its settings."""
    parser = fit_parser()
    parser.parse_args(["model", "--data.shards", "data", "--optimizer.lr=3"])
    assert parser.given == {"data.shards", "optimiser.lr"}


def test_the_defaults_of_fit_are_those_of_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    parser = fit_parser()
    expected = load_config(CONFIGS / "folder.yaml")
    assert config_of(parser, parser.parse_args(["photos"])) == expected
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert f"default: {expected.model.backbone}" in " ".join(capsys.readouterr().out.split())


def test_american_spelling(tmp_path: Path) -> None:
    words = ("--optimizer.lr", "3", "--train.method=neighbor_contrast", "--model.batch_norm", "synchronized")
    config = parsed(*words, "--manifold.center", "mean", "--run_dir", "center")
    assert (config.optimiser.lr, config.train.method, config.model.batch_norm) == (
        3,
        "neighbour_contrast",
        "synchronised",
    )
    assert (config.manifold.centre, config.run_dir) == ("mean", "center")
    (file := tmp_path / "file.yaml").write_text(
        "optimizer: {name: sgd}\nmodel: {batch_norm: synchronized, weights: optimizer}\nmanifold:\n  center: origin\n"
    )
    config = parsed("--config", file)
    assert (config.optimiser.name, config.model.batch_norm, config.manifold.centre) == ("sgd", "synchronised", "origin")
    assert config.model.weights == "optimizer"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--manifold.kk", "5"], "did you mean manifold.k?"),
        (["--lr", "5"], "optimiser.lr"),
        (["--optimizer.lrr=5"], "did you mean optimiser.lr?"),
        (["--train.method", "plmm"], "train.method is plmm: it must be one of plm, instance,"),
        (["--manifold.k", "many"], "manifold.k is many: it must be an integer"),
    ],
)
def test_what_may_have_been_meant(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nmanifold:\n  kk: 5\n", "line 3: unknown key manifold.kk; did you mean manifold.k?"),
        ("manifld: {k: 5}\n", "line 1: unknown key manifld; did you mean manifold?"),
        ("optimizer: {lr: 1}\noptimiser: {lr: 2}\n", "line 2: optimiser is a duplicate key"),
    ],
)
def test_a_file_is_named_with_the_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "file.yaml").write_text(text)
    with pytest.raises(SystemExit):
        parsed("--config", file)
    assert f"{file}: {said}" in capsys.readouterr().err


def test_nothing_near_is_not_guessed() -> None:
    assert suggestion("xylophone", ["seed", "manifold.k"]) == ""


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    (file := tmp_path / "file.yaml").write_text("data: {shards: ~/shards, cache_dir: '~'}\nmodel: {weights: ~/w.pth}\n")
    config = parsed("--config", file, "--run_dir=~/run")
    assert (config.run_dir, config.data.shards) == ("/home/someone/run", "/home/someone/shards")
    assert (config.data.cache_dir, config.model.weights) == ("/home/someone", "/home/someone/w.pth")
    with pytest.raises(UserError, match="no home folder is known for ~nobody-of-that-name"):
        parsed("--run_dir=~nobody-of-that-name/run")
    parser = OneLineParser()
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out=~/x"]).out == Path("/home/someone/x")


def test_short_help_and_long(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as leaving:
            parsed(option)
        assert not leaving.value.code
        printed[option] = capsys.readouterr().out
    assert "--optimiser.lr" in printed["--help"] and "--manifold.k" not in printed["--help"]
    assert "--manifold.k " in printed["--help-all"] and "--help-all" in printed["--help"]
    assert printed["--help"].count("\n") < 60 < printed["--help-all"].count("\n")
    assert max(map(len, printed["--help"].splitlines())) <= 130


def test_only_sections_in_use_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*words: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            parsed(*words, "--print_config")
        document = yaml.safe_load(capsys.readouterr().out)
        assert isinstance(document, dict)
        return document

    plm, stml = printed(), printed("--train.method", "stml", "--runtime.strategy", "deepspeed")
    assert {"loss", "proxies"} <= plm.keys() and not {"stml", "dada", "proxy_anchor", "pseudo_labels"} & plm.keys()
    assert "stml" in stml and "loss" not in stml
    assert "zero" in stml["runtime"] and "zero" not in plm["runtime"]
    assert plm["loss"]["neighbourhood"] == 60_000 / 39_800


def test_retired_keys_load_at_their_former_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "file.yaml").write_text("stml: {sigma: 3.0, delta: 2}\nruntime: {signals: [SIGTERM]}\n")
    assert parsed("--config", file) == load_config(file) == Config(stml=StmlConfig(delta=2))
    file.write_text("stml:\n  sigma: 4.0\n")
    with pytest.raises(UserError, match=r"stml\.sigma is 4\.0, but the key was removed: the kernel width is 3"):
        load_config(file)
    for words in (["--config", file], ["--stml.sigma", 3]):
        with pytest.raises(SystemExit):
            parsed(*words)
        assert "removed: the kernel width is 3" in capsys.readouterr().err
    assert not set(RETIRED) & set(KEYS)


def test_paths_and_choices_of_other_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    build = shard_parser().parse_args(["folder", "--source", "~/photos", "--out=~/shards", "--order-by", "~/index"])
    assert [str(path) for path in (build.source, build.out, build.order_by)] == [
        f"/home/someone/{name}" for name in ("photos", "shards", "index")
    ]
    parser = OneLineParser()
    add_frozen_options(parser)
    options = parser.parse_args(["--weights", "~/w.pth", "--whiten", "s3://bucket/~/shards"])
    assert (options.weights, options.whiten) == ("/home/someone/w.pth", "s3://bucket/~/shards")
    for words, said in (
        (["foldr"], "did you mean folder?"),
        (["demo", "--out", "x", "--imges", "8"], "did you mean images?"),
    ):
        with pytest.raises(SystemExit):
            shard_parser().parse_args(words)
        assert said in capsys.readouterr().err
