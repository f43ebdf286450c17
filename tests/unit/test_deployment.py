"""Which network of a run is used, and how the commands that follow name it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dist_plm.cli import load_config
from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.evaluation.deployment import deployment, summary
from dist_plm.evaluation.label_free import STRONG_RECALL
from dist_plm.fit.asked import Asked
from dist_plm.fit.photos import Photos
from dist_plm.fit.run import Run
from tests.commands import ROOT

FOLDER = load_config(ROOT / "configs/folder.yaml")


def run_with(folder: Path, *events: dict, best: int = 0) -> Path:
    """A run directory with checkpoints at steps 10 and 20, and these lines of metrics."""
    for step in (10, 20):
        (folder / f"checkpoints/step_{step:08d}").mkdir(parents=True)
    if best:
        (folder / "checkpoints/best").symlink_to(f"step_{best:08d}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    return folder


def judged(step: int, model: str, recall: float, word: str = "better") -> list[dict]:
    at = {"step": step, "model": model}
    return [
        {"event": "eval", **at, "recall": {"1": recall, "2": recall}},
        {"event": "verdict", **at, "verdict": word, "text": f"{word} by {recall}"},
    ]


def test_the_network_with_the_highest_recall_is_deployed(tmp_path):
    lines = [*judged(0, "student", 0.9), *judged(10, "teacher", 0.6), *judged(20, "student", 0.5)]
    lines += judged(20, "teacher", 0.4)
    found = deployment(run_with(tmp_path / "a", *lines), Config())
    assert (found.model, found.step, found.checkpoint) == ("student", 20, tmp_path / "a")
    found = deployment(run_with(tmp_path / "b", *lines, best=10), Config())
    assert (found.model, found.step, found.checkpoint.name) == ("teacher", 10, "best")
    assert "better by 0.6" in summary(found, Config())


def test_without_labels_the_views_decide_and_without_both_nothing_does(tmp_path):
    lines = [{"event": "label_free", "step": 20, "model": m, "values": {"view_recall": a, STRONG_RECALL: a}}
             for m, a in (("student", 0.3), ("teacher", 0.4))]  # fmt: skip
    assert deployment(run_with(tmp_path / "a", *lines), Config()).model == "teacher"
    assert "no evidence" in deployment(run_with(tmp_path / "b"), Config()).evidence
    assert deployment(tmp_path / "none", Config()) is None


def test_a_run_that_is_worse_than_its_start_deploys_the_start(tmp_path):
    lines = [*judged(20, "student", 0.5, "worse"), *judged(20, "teacher", 0.4, "worse")]
    config = replace(FOLDER, run_dir=str(tmp_path))
    found = deployment(run_with(tmp_path / "a", *lines), config)
    assert found.model == "start" and "worse" in found.evidence
    words = found.embed_words(config)
    assert words[:2] == ["--backbone", config.model.backbone] and "--whiten" in words


def test_the_commands_that_follow_permit_ones_own_network(tmp_path):
    config = replace(FOLDER, run_dir="run", model=replace(FOLDER.model, backbone="my:net", weights=""))
    told = summary(deployment(run_with(tmp_path, *judged(20, "student", 0.5)), config), config).splitlines()[2:]
    assert len(told) == 5 and all("--backbone my:net" in line for line in told)


@pytest.mark.parametrize(("head_start", "said"), [("whitened", "use the start"), ("pca", "use the features, without")])
def test_a_start_is_named_as_what_its_command_embeds(head_start, said, tmp_path):
    lines = [*judged(20, "student", 0.5, "worse"), *judged(20, "teacher", 0.4, "worse")]
    config = replace(FOLDER, model=replace(FOLDER.model, head_start=head_start))
    found = deployment(run_with(tmp_path, *lines), config)
    assert summary(found, config).startswith(said)


def test_code_that_only_a_run_directory_names_is_not_imported(tmp_path):
    (tmp_path / "fit.yaml").write_text("model: {backbone: 'tests.networks:vit_16'}\n")
    typed = {"images": str(tmp_path), "minutes": 10.0}
    (tmp_path / "fit.json").write_text(json.dumps({"typed": typed, "ranks": 1}))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="only run where you name it"):
        patch.setattr("dist_plm.model.own_backbone._allowed", set())
        Run(Photos(tmp_path, "folder"), tmp_path, Asked(FOLDER, frozenset(), 0, 10.0))._settings("")
