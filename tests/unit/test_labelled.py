"""Recall on a few labelled images, against counts by hand and the start of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.common import build_demo
from dist_plm.checkpoint.checkpoint import FoundCheckpoint
from dist_plm.config import Config, DataConfig, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.encoders.labelled import evaluate_labelled, read_labels, start_of
from dist_plm.encoders.networks import TrainedRun
from dist_plm.errors import UserError
from dist_plm.training.held_out import HeldOutViews, held_out_store
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
        ("path,label\n" + "nowhere.jpg,1\n" * 30, "nowhere.jpg is no image of split test.*such as glyph/"),
        ("path,label\n" + 'a.jpg,1\n"b.jpg,1\n' + "c.jpg,1\n" * 30, "line 3: a quoted field does not end"),
    ],
)
def test_labels_that_fit_nothing_are_refused(store, tmp_path, text, named):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=named):
        read_labels(path, store)
    with pytest.raises(UserError, match="can't be read"):
        read_labels(tmp_path / "missing.csv", store)


class Named:
    """A split whose images have these paths."""

    def __init__(self, *sources: str) -> None:
        self.sources, self.split = sources, "test"

    def __len__(self) -> int:
        return len(self.sources)

    def about(self, id: int) -> dict[str, str]:
        return {"source": self.sources[id]}


ROOTS = [f"{number:03}.png" for number in range(20)]


@pytest.mark.parametrize(
    ("sources", "rows"),
    [
        ([*ROOTS, *(f"sub/{name}" for name in ROOTS)], ROOTS),  # the very path, though it is an end of another
        ([f"test/a/{name}" for name in ROOTS], ROOTS),
        ([f"test/a/{name}" for name in ROOTS], [f"a/{name}" for name in ROOTS]),
        ([f"a/{name}" for name in ROOTS], [f"/photos/a/{name}" for name in ROOTS]),
        ([f"a/{name}" for name in ROOTS], [f"./a/{name}" for name in ROOTS]),
        (["caf\udce9.png", *ROOTS], ["caf\udce9.png", *ROOTS[:19]]),
    ],
)
def test_a_path_names_the_image_that_it_is_or_ends(tmp_path, sources, rows):
    StartRecord(tmp_path).save_list(rows)
    text = (tmp_path / "held_out.csv").read_bytes().replace(b",\r\n", b",k\r\n")
    (tmp_path / "held_out.csv").write_bytes(text)
    assert read_labels(tmp_path / "held_out.csv", Named(*sources)).ids.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("sources", "wrong"),
    [
        ([f"test/b/{name}" for name in ROOTS], "is no image"),  # of an image of another class
        ([f"test/b/1{name}" for name in ROOTS], "is no image"),
        ([f"{part}/train/a/{name}" for part in "xy" for name in ROOTS], "fits 2 images"),
    ],
)
def test_a_path_of_another_image_of_the_same_name_is_refused(tmp_path, sources, wrong):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["path,label", *(f"train/a/{name},k" for name in ROOTS)]))
    with pytest.raises(UserError, match=f"train/a/000.png {wrong} of split test"):
        read_labels(path, Named(*sources))


def test_images_are_those_of_the_list_that_the_run_wrote(tmp_path):
    """With a test split of fewer than 20 images, held_out.csv lists training images."""
    few = DataConfig(shards=str(build_demo(tmp_path / "few", images=38)))
    many = DataConfig(shards=str(build_demo(tmp_path / "many", images=40)))
    stores = [held_out_store(data) for data in (few, many, replace(many, test_split=""))]
    assert [store.split for store in stores] == ["train", "test", "train"]
    run = TrainedRun(tmp_path, Config(data=few), FoundCheckpoint(tmp_path, {"data": stores[0].fingerprint}, []))
    assert start_of(run, stores[0]) == tmp_path / "start"
    assert start_of(run, Store(few.shards, "test")) is None, "ids of one split are not those of another"
    assert start_of(run, stores[2]) is None, "nor those of another data set"


def test_the_list_to_be_labelled_has_every_held_out_image(tmp_path):
    StartRecord(tmp_path / "start").save_list(["a, b.jpg", "c.jpg"])
    assert (tmp_path / "start" / "held_out.csv").read_text().splitlines() == ["path,label", '"a, b.jpg",', "c.jpg,"]
