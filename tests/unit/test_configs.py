"""The defaults are the demo; what depends on the data set is stated by every configuration that is shipped."""

from dataclasses import asdict

import pytest
import yaml

from dist_plm.checks import ask_for_settings
from dist_plm.cli import load_config
from dist_plm.config import Config, DataConfig, flat
from dist_plm.errors import UserError
from tests.commands import ROOT

FILES = sorted((ROOT / "configs").glob("*.yaml"))
# What suits the demo's glyphs and nothing else.
STATED = {
    "run_dir", "data.shards", "views.size", "views.resize", "views.scale", "views.flip", "views.brightness",
    "model.backbone", "model.dim", "model.momentum", "batch.groups", "batch.group_size", "optimiser.lr",
    "warm_up.epochs", "train.epochs", "train.evaluate_epochs", "evaluation.raw_pixels", "evaluation.batch_size",
    "checkpoint.every_steps",
}  # fmt: skip


def test_the_defaults_are_the_demo():
    demo, default = (flat(asdict(each)) for each in (load_config(ROOT / "configs/demo.yaml"), Config()))
    assert {key for key in demo if demo[key] != default[key]} == {"runtime.strategy"}


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "demo"], ids=lambda path: path.stem)
def test_a_configuration_rests_on_no_default_of_the_demo(path):
    stated = flat(yaml.safe_load(path.read_text())).keys()
    assert not STATED - stated
    if load_config(path).train.method == "plm":
        assert "manifold.n_alpha" in stated


def test_settings_of_other_images_are_asked_for(demo_folder):
    config = Config(data=DataConfig(shards=str(demo_folder)))
    ask_for_settings(config, set())  # its manifest says that these are glyphs too
    manifest = demo_folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"demo"', '"photos"'))
    ask_for_settings(config, {"model.backbone", "views.size"})
    with pytest.raises(UserError, match=r"^views\.size must be given for .*--views\.size"):
        ask_for_settings(config, {"model.backbone"})


@pytest.fixture
def demo_folder(tmp_path):
    from dist_plm.datasets.build import main

    assert main(["demo", "--images", "8", "--size", "16", "--workers", "1", "--out", str(tmp_path / "shards")]) == 0
    return tmp_path / "shards"
