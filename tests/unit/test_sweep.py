"""Files of a sweep: used as they are where they are intact, made again where they are not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_plm.config import Config, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure
from dist_plm.index.embedding_pass import sweep
from dist_plm.telemetry.progress import Display

CONFIG = Config(views=ViewsConfig(size=8, resize=8))


class Counting:
    """Embeds by the mean colour, and counts the images."""

    def __init__(self, scale: float = 1.0) -> None:
        self.images, self.scale = 0, scale

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        self.images += len(views)
        return self.scale * views.float().mean((2, 3))


def swept(folder: Path, embed: Counting, **options: bool) -> np.ndarray:
    world = World()
    with Store(folder, "train") as store:
        return sweep(embed, store, folder / "sweep", config=CONFIG, world=world, display=Display(world), title="sweep",
                     **options).whole()  # fmt: skip


@pytest.mark.parametrize("damage", ["zeroed", "truncated", "empty", "deleted", "note", "no note", "rows", "pickle"])
def test_a_damaged_file_is_made_again(tmp_path, tiny_split, damage):
    tiny_split([3, 4, 2])
    expected = swept(tmp_path, Counting())
    file = tmp_path / "sweep" / "train" / "ids_3_4.npy"
    text = file.read_bytes()
    if damage == "zeroed":
        file.write_bytes(text[:128] + bytes(len(text) - 128))
    elif damage == "deleted":
        file.unlink()
    elif damage == "note":
        file.with_suffix(".json").write_text("[" * 10_000)
    elif damage == "no note":
        file.with_suffix(".json").unlink()
    elif damage == "rows":
        np.save(file, np.zeros((3, 3), np.float32))
    elif damage == "pickle":
        np.save(file, np.array([{}] * 4), allow_pickle=True)
    else:
        file.write_bytes(text[:-8] if damage == "truncated" else b"")
    with pytest.raises(RunFailure, match=r"ids_3_4.* the weights of these embeddings no longer exist"):
        swept(tmp_path, Counting(2.0), renewable=False)
    again = Counting()
    assert np.array_equal(swept(tmp_path, again), expected) and again.images == 4
    assert np.array_equal(swept(tmp_path, again, renewable=False), expected) and again.images == 4


def test_files_of_older_versions_have_no_notes(tmp_path, tiny_split):
    tiny_split([3, 4])
    expected = swept(tmp_path, Counting())
    for note in (tmp_path / "sweep" / "train").glob("*.json"):
        assert json.loads(note.read_text()).keys() == {"bytes", "sha256"}
        note.unlink()
    assert np.array_equal(swept(tmp_path, Counting(2.0), renewable=False), expected)
    (tmp_path / "sweep" / "train" / "ids_3_4.npy").write_bytes(b"")
    again = Counting()
    assert np.array_equal(swept(tmp_path, again), expected) and again.images == 4


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_not_kept(tmp_path, tiny_split, scale):
    tiny_split([3, 4])
    with pytest.raises(RunFailure, match="sweep: 3 embeddings are not finite"):
        swept(tmp_path, Counting(scale))
    assert list((tmp_path / "sweep" / "train").iterdir()) == []
