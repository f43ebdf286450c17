"""An index that lives: it becomes what a fresh one would be, and who reads it meanwhile sees one state or the other."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_plm.datasets.order import order_by
from dist_plm.datasets.plain import folder
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.search_index import build, embedding, generation
from dist_plm.search_index.build import Builder
from dist_plm.search_index.images import FolderImages
from dist_plm.search_index.maintenance import add, changes, remove, update
from dist_plm.search_index.search_index import SearchIndex
from dist_plm.telemetry.progress import Display
from tests.untrained import untrained


def put(path: Path, number: int, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (size, size + number % 5, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(12):
        put(tmp_path / "photos" / f"class {number % 3}" / f"{number:02d}", number)
    (tmp_path / "photos" / "notes.txt").write_text("notes")
    (tmp_path / "photos" / ".hidden").write_text("hidden")
    return tmp_path / "photos"


DISPLAY = Display(World())


def embed(photos: Path, out: Path) -> SearchIndex:
    torch.manual_seed(0)
    Builder(FolderImages(photos), untrained(), out, 1, World(), DISPLAY).build()
    return SearchIndex(out)


def content(index: Path) -> dict[str, tuple[list[float], str | None]]:
    """Embedding and label by name."""
    search_index = SearchIndex(index)
    found = {
        row["name"]: (np.round(vector, 5).tolist(), row.get("label"))
        for row, vector in zip(search_index.rows, search_index.embeddings, strict=True)
    }
    assert len(found) == len(search_index)
    return found


def lists(index: Path, name: str) -> list[str]:
    return sorted(json.loads(line)["name"] for line in SearchIndex(index).file(name).read_text().splitlines())


def test_an_update_gives_what_a_fresh_index_would(photos, tmp_path, monkeypatch):
    index = tmp_path / "index"
    before = embed(photos, index)
    assert update(before, 1, DISPLAY) == "up to date"
    (photos / "class 0" / "00").unlink()
    (photos / "class 0" / "03").rename(photos / "class 1" / "moved")
    put(photos / "class 2" / "02", 50)  # changed
    put(photos / "new" / "60", 60)
    (photos / "new" / "cut").write_bytes((photos / "new" / "60").read_bytes()[:200])
    (photos / "notes.txt").unlink()
    (photos / ".more").write_text("hidden")
    embedded: list[str] = []
    view = embedding._view

    def counted(images, config, number):
        embedded.append(images.about(number)["name"])
        return view(images, config, number)

    monkeypatch.setattr(embedding, "_view", counted)
    assert str(changes(SearchIndex(index))) == "4 files new or changed, 2 deleted"
    assert update(SearchIndex(index), 1, DISPLAY) == "2 embedded, 1 moved or copied, 1 unreadable, 2 deleted"
    assert sorted(embedded) == ["class 2/02", "new/60", "new/cut"], "what moved is not embedded again"
    monkeypatch.undo()
    embed(photos, tmp_path / "fresh")
    assert content(index) == content(tmp_path / "fresh")
    for name in ("unreadable.jsonl", "ignored.jsonl"):
        assert lists(index, name) == lists(tmp_path / "fresh", name)
    assert update(SearchIndex(index), 1, DISPLAY) == "up to date"
    query = np.asarray(SearchIndex(index).embeddings[3:4])
    assert SearchIndex(index).search(query, 1)[0][0].row == 3


def test_readers_are_not_disturbed(photos, tmp_path):
    index = tmp_path / "index"
    reading = embed(photos, index)
    rows, first = list(reading.rows), np.array(reading.embeddings)
    summary = (index / "index.json").read_bytes()
    remove(SearchIndex(index), ["class 0/00"])
    # Who read index.json before the change opens the files of before.
    changed = (index / "index.json").read_bytes()
    (index / "index.json").write_bytes(summary)
    assert [row["name"] for row in SearchIndex(index).rows] == [row["name"] for row in rows]
    (index / "index.json").write_bytes(changed)
    remove(SearchIndex(index), ["class 1"])
    assert np.array_equal(reading.embeddings, first) and reading.search(first[:1], 3)[0][0].row == 0
    assert not (index / "embeddings.npy").exists(), "two changes later it goes"
    assert (index / "embeddings.2.npy").exists() and len(SearchIndex(index)) == 7
    assert json.loads((index / "index.json").read_text())["format"] == 2
    assert len({entry.source for entry in order_by(folder(photos), index).entries()}) == 13


def test_add_and_remove(photos, tmp_path, monkeypatch):
    index = tmp_path / "index"
    embed(photos, index)
    put(photos / "new" / "a", 70)
    put(photos / "new" / "b", 71)
    put(photos / "other", 72)
    monkeypatch.chdir(photos)
    assert add(SearchIndex(index), [Path("new/a")], 1, DISPLAY).startswith("1 embedded")
    assert add(SearchIndex(index), [photos / "new"], 1, DISPLAY).startswith("1 embedded")
    assert add(SearchIndex(index), [photos / "class 0"], 1, DISPLAY) == "nothing to add"
    assert add(SearchIndex(index), [Path(".")], 1, DISPLAY).startswith("1 embedded")
    assert remove(SearchIndex(index), ["new/", "class 0/00"]).startswith("3 removed")
    names = [row["name"] for row in SearchIndex(index).rows]
    assert len(names) == 12 and "other" in names and "new/a" not in names
    for call, named in (
        (lambda: add(SearchIndex(index), [tmp_path], 1, DISPLAY), "lies outside of"),
        (lambda: add(SearchIndex(index), [photos / ".."], 1, DISPLAY), "lies outside of"),
        (lambda: add(SearchIndex(index), [photos / "new" / ".." / ".."], 1, DISPLAY), "lies outside of"),
        (lambda: add(SearchIndex(index), [photos / "none"], 1, DISPLAY), "no such file"),
        (lambda: remove(SearchIndex(index), ["new/a"]), "has no image 'new/a'"),
        (lambda: remove(SearchIndex(index), names), "would have no images left"),
    ):
        with pytest.raises(UserError, match=named):
            call()
    assert [row["name"] for row in SearchIndex(index).rows] == names


def test_add_takes_names_as_an_update_does(photos, tmp_path):
    index, linked = tmp_path / "index", tmp_path / "linked"
    linked.mkdir()
    (photos / "link").symlink_to(linked)
    embed(photos, index)
    put(linked / "n", 73)
    put(photos / "x" / "n", 74)
    (photos / ".x").mkdir()
    assert add(SearchIndex(index), [photos / ".x"], 1, DISPLAY) == "nothing to add"
    assert add(SearchIndex(index), [photos / "link" / "n"], 1, DISPLAY).startswith("1 embedded")
    assert add(SearchIndex(index), [photos / ".x" / ".." / "x"], 1, DISPLAY).startswith("1 embedded")
    assert {"link/n", "x/n"} <= {row["name"] for row in SearchIndex(index).rows}
    assert update(SearchIndex(index), 1, DISPLAY) == "up to date"
    (tmp_path / "way").symlink_to(photos / "x")
    put(photos / "x" / "m", 75)
    assert add(SearchIndex(index), [tmp_path / "way" / "m"], 1, DISPLAY).startswith("1 embedded")


def test_a_change_that_is_stopped_leaves_the_index_as_it_was(photos, tmp_path, monkeypatch):
    index = tmp_path / "index"
    embed(photos, index)
    put(photos / "new", 80)
    before = content(index)

    def stop(*_):
        raise KeyboardInterrupt

    for step in ("write_vectors", "write_lines", "write_summary"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(generation, step, stop)
            update(SearchIndex(index), 1, DISPLAY)
        assert content(index) == before
    assert update(SearchIndex(index), 1, DISPLAY).startswith("1 embedded") and len(SearchIndex(index)) == 13


def test_two_changes_do_not_mix(photos, tmp_path):
    one, two = embed(photos, tmp_path / "index"), SearchIndex(tmp_path / "index")
    remove(one, ["class 0"])
    with pytest.raises(UserError, match="was just changed"):
        remove(two, ["class 1"])


def test_an_old_index_is_brought_up_to_date(photos, tmp_path):
    """Rows of before there were sizes and times: every file is embedded again."""
    index = tmp_path / "index"
    embed(photos, index)
    rows = [json.loads(line) for line in (index / "images.jsonl").read_text().splitlines()]
    old = "".join(json.dumps({key: row[key] for key in ("name", "label")}) + "\n" for row in rows)
    (index / "images.jsonl").write_text(old)
    (index / "ignored.jsonl").unlink()
    summary = json.loads((index / "index.json").read_text())
    del summary["generation"], summary["ignored"], summary["files"]["ignored.jsonl"]
    summary["files"]["images.jsonl"] = len(old)
    (index / "index.json").write_text(json.dumps(summary))
    assert len(SearchIndex(index)) == 12
    assert update(SearchIndex(index), 1, DISPLAY).startswith("12 embedded")
    assert update(SearchIndex(index), 1, DISPLAY) == "up to date"


@pytest.mark.parametrize("how", ["swap", "touch", "rewrite"])
def test_a_killed_embed_takes_no_ghosts(photos, tmp_path, monkeypatch, how):
    """Killed between two blocks; then one image goes and another comes, or one changes: the count is the same."""
    monkeypatch.setattr(build, "BLOCK", 4)
    block = Builder._block

    def killed(self, numbers, *rest):
        if numbers.start:
            raise KeyboardInterrupt
        block(self, numbers, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Builder, "_block", killed)
        embed(photos, tmp_path / "index")
    first = photos / "class 0" / "00"
    if how == "swap":
        first.unlink()
        put(photos / "class 0" / "000", 90)
    elif how == "touch":
        os.utime(first, (1, 1))
    else:
        put(first, 91, 33)
    embed(photos, tmp_path / "index")
    embed(photos, tmp_path / "fresh")
    assert content(tmp_path / "index") == content(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "index")
