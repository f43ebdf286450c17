"""The settings of a run directory against those of the command that resumes it."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from dist_plm.config import Config, DadaConfig, LoraConfig, LossConfig, ModelConfig, StmlConfig, TrainConfig
from dist_plm.config.text import plain
from dist_plm.training.begun import as_begun, differences
from dist_plm.training.run_directory import dump


def begun(folder: Path, config: Config, *, whole: bool = False) -> Path:
    """A run directory with a checkpoint; `whole`: its config.yaml has all sections, as older versions wrote it."""
    (folder / "checkpoints/step_0000000001").mkdir(parents=True)
    text = yaml.safe_dump(plain(asdict(config))) if whole else dump(config)
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("whole", [False, True])
def test_sections_without_effect_are_not_compared(tmp_path: Path, whole: bool) -> None:
    stored = Config(stml=StmlConfig(delta=0.5), dada=DadaConfig(lr=1e-3), loss=LossConfig(delta=1.0))
    run = begun(tmp_path, stored, whole=whole)
    assert differences(run, Config(loss=LossConfig(delta=1.0))) == {}
    assert differences(run, Config()) == {"loss.delta": [1.0, 2.0]}


def test_another_method_is_a_difference_with_all_of_its_settings(tmp_path: Path) -> None:
    run = begun(tmp_path, Config(train=TrainConfig(method="stml"), stml=StmlConfig(delta=0.5)))
    found = differences(run, Config(loss=LossConfig(delta=1.0)))
    assert found == {"train.method": ["stml", "plm"], "stml.delta": [0.5, 1.0], "loss.delta": [2.0, 1.0]}


def test_what_the_command_does_not_set_is_taken_from_the_run(tmp_path: Path) -> None:
    stored = Config(run_dir=str(tmp_path), model=ModelConfig(lora=LoraConfig(rank=4)))
    begun(tmp_path, stored)
    config, taken = as_begun(replace(Config(), run_dir=str(tmp_path)), {"run_dir"})
    assert config == stored and taken == {"model.lora.rank": 4}
