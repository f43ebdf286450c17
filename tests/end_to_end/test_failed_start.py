"""A start that failed before anything was learned does not stand in the way of the corrected command."""

import shutil

import pytest

from dist_plm import evaluate as evaluation
from dist_plm import train as training
from dist_plm.data import loader
from dist_plm.errors import RunFailure
from tests.end_to_end.conftest import STEPS, contents, events, refused


def test_views_too_small_for_the_network(mistaken):
    mistaken("views.size 16: convnext_tiny does not support this size", "--model.backbone", "convnext_tiny")


def test_fewer_images_than_the_whitened_start_needs(mistaken):
    mistaken("needs more images than model.dim 100", "--model.head_start", "whitened", "--model.dim", 100)


def test_the_corrected_command_starts(tmp_path, tiny, here, monkeypatch):
    run = tmp_path / "run"

    def broken(*_, **__):
        raise RunFailure("no step was taken")

    with monkeypatch.context() as patch:
        patch.setattr(loader.Loader, "__iter__", broken)
        outcome = here(training.main, "--config", tiny, "--run_dir", run, "--seed", 3, "--optimiser.lr", 1)
    assert outcome.status == 1 and (run / "config.yaml").exists()
    corrected = ("--config", tiny, "--run_dir", run, "--seed", 4)
    outcome = here(training.main, *corrected)
    assert outcome.status == 0, outcome.err
    assert "seed: 4" in (run / "config.yaml").read_text() and len(events(run, "step")) == STEPS
    # Now that there is a checkpoint, other settings are another experiment.
    refused(here(training.main, *corrected, "--optimiser.lr", 1), "holds another experiment (optimiser.lr: ")


def test_a_run_keeps_what_the_command_leaves_open(tmp_path, tiny, here):
    """An older version had other defaults: what no file and no option sets is the run's, not the default."""
    run = tmp_path / "run"
    begin = ("--config", tiny, "--run_dir", run, "--train.max_steps", 2, "--manifold.n_beta", 0.7)
    assert here(training.main, *begin).status == 0
    outcome = here(training.main, "--config", tiny, "--run_dir", run, "--train.max_steps", 4)
    assert outcome.status == 0 and "manifold.n_beta 0.7" in outcome.err, outcome.err
    assert "n_beta: 0.7" in (run / "config.yaml").read_text() and len(events(run, "step")) == 4
    before = contents(run)
    refused(here(training.main, *begin, "--manifold.n_beta", 0.5), "manifold.n_beta: 0.7 there, 0.5 here")
    assert contents(run) == before


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_finds_its_data_from_elsewhere(tmp_path, finished, demo, here, monkeypatch, moved):
    """Training was started in `project`, with paths relative to it; evaluation is started somewhere else."""
    project = tmp_path / "project"
    shutil.copytree(finished, project / "runs/tiny")
    config = project / "runs/tiny/config.yaml"
    config.write_text(config.read_text().replace(str(demo), "data/glyphs"))
    shutil.copytree(demo, project / "data/glyphs")
    if moved:
        project = project.rename(tmp_path / "elsewhere")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    outcome = here(evaluation.main, "--checkpoint", project / "runs/tiny")
    assert outcome.status == 0, outcome.err
    shutil.rmtree(project / "data")
    refused(here(evaluation.main, "--checkpoint", project / "runs/tiny"), "--shards in evaluate")
