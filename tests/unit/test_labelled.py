"""Recall on a few labelled images, against counts by hand and the start of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.common import build_demo
from dist_plm.config import Config, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.encoders.labelled import evaluate_labelled, read_labels
from dist_plm.errors import UserError
from dist_plm.training.held_out import HeldOutViews
from dist_plm.training.start_record import StartRecord

VIEWS = ViewsConfig(size=16, resize=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_demo(tmp_path_factory.mktemp("data") / "demo"), "test")


class Given:
    """A network that hands out the rows of `vectors` in order."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self.vectors, self.views, self.source = vectors, VIEWS, {"model": "teacher", "step": 9}

    def embed(self, views: torch.Tensor) -> torch.Tensor:
        rows, self.vectors = self.vectors[: len(views)], self.vectors[len(views) :]
        return rows


def written(folder: Path, store: Store, ids: list[int], labels: list[object]) -> Path:
    path = folder / "labels.csv"
    lines = [f"{store.about(id)['source']},{label}" for id, label in zip(ids, labels, strict=True)]
    path.write_text("\n".join(["path,label", *lines, f"{store.about(99)['source']},"]))
    return path


def test_recall_and_the_difference_to_the_start(store, tmp_path):
    """40 images of two kinds; the start tells them apart, the network finds the wrong kind for each."""
    ids, labels = list(range(0, 80, 2)), [number % 2 for number in range(40)]
    labelled = read_labels(written(tmp_path, store, ids[::-1], labels[::-1]), store)
    assert labelled.ids.tolist() == ids and labelled.labels.tolist() == labels
    noise = 0.01 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    kinds = torch.eye(8)[labels]
    right, wrong = normalize(kinds + noise), normalize(torch.eye(8)[torch.arange(40) // 2 % 8] + noise)
    start = StartRecord(tmp_path / "start")
    start.save_views(np.array(ids), HeldOutViews(*[right] * 5))
    good = evaluate_labelled(Given(right.clone()), labelled, tmp_path / "start", config=Config(views=VIEWS))
    assert good["recall"]["1"] == 1 and good["interval"] == {"low": 1, "high": 1} and good["over_start"]["value"] == 0
    found = evaluate_labelled(Given(wrong.clone()), labelled, tmp_path / "start", config=Config(views=VIEWS))
    nearest = torch.cdist(wrong, wrong).fill_diagonal_(9).argmin(1)
    share = float((torch.tensor(labels)[nearest] == torch.tensor(labels)).float().mean())
    assert (
        found["recall"]["1"] == pytest.approx(share) and found["interval"]["low"] <= share <= found["interval"]["high"]
    )
    assert found["over_start"]["value"] == pytest.approx(share - 1) and found["text"].startswith("LOWER than the start")
    alone = evaluate_labelled(Given(right.clone()), labelled, None, config=Config(views=VIEWS))
    assert "over_start" not in alone


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,label\na.jpg,1\n", "label at least 20"),
        ("a.jpg,1\nb.jpg,2\n", "first line must be path,label"),
        ("", "first line must be path,label"),
        ("path,label\n,1\n", "without a path"),
        ("path,label\n" + "nowhere.jpg,1\n" * 30, "is no image of split test"),
    ],
)
def test_labels_that_fit_nothing_are_refused(store, tmp_path, text, named):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=named):
        read_labels(path, store)
    with pytest.raises(UserError, match="can't be read"):
        read_labels(tmp_path / "missing.csv", store)


def test_the_list_to_be_labelled_has_every_held_out_image(tmp_path):
    StartRecord(tmp_path / "start").save_list(["a, b.jpg", "c.jpg"])
    assert (tmp_path / "start" / "held_out.csv").read_text().splitlines() == ["path,label", '"a, b.jpg",', "c.jpg,"]
