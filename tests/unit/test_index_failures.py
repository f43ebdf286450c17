"""What an index could not read is tried again by each update, and damaged lists of an index are named."""

import json

import pytest

from dist_plm.errors import UserError
from dist_plm.search_index import images
from dist_plm.search_index.maintenance import add, remove, update
from dist_plm.search_index.search_index import SearchIndex
from tests.unit.test_index_changes import DISPLAY, content, embed, lists, photos  # noqa: F401


@pytest.fixture
def denied(photos, tmp_path, monkeypatch):  # noqa: F811
    """An index of which two images could not be read, and can be read now."""
    with monkeypatch.context() as patch:
        read = images.read_file

        def refusing(path, *rest):
            if path.name in ("00", "01"):
                raise PermissionError(13, "Permission denied")
            return read(path, *rest)

        patch.setattr(images, "read_file", refusing)
        embed(photos, tmp_path / "index")
        assert update(SearchIndex(tmp_path / "index"), 1, DISPLAY) == "up to date"
    return tmp_path / "index"


def test_an_update_reads_what_can_be_read_now(photos, tmp_path, denied):  # noqa: F811
    assert SearchIndex(denied).generation == 1, "the same failures are no change"
    assert lists(denied, "unreadable.jsonl") == ["class 0/00", "class 1/01", "notes.txt"]
    assert add(SearchIndex(denied), [photos / "class 0"], 1, DISPLAY).startswith("1 embedded")
    assert lists(denied, "unreadable.jsonl") == ["class 1/01", "notes.txt"]
    done = "1 embedded, 0 moved or copied, 1 unreadable"
    assert update(SearchIndex(denied), 1, DISPLAY) == f"{done}, 0 deleted"
    assert add(SearchIndex(denied), [photos / "notes.txt"], 1, DISPLAY) == done.replace("1 emb", "0 emb")
    assert SearchIndex(denied).generation == 3 and lists(denied, "unreadable.jsonl") == ["notes.txt"]
    embed(photos, tmp_path / "fresh")
    assert content(denied) == content(tmp_path / "fresh")


def rewrite(index, name: str, text: str) -> None:
    path = index / "index.json"
    summary = json.loads(path.read_text())
    (index / name).write_text(text)
    path.write_text(json.dumps({**summary, "files": {**summary["files"], name: len(text.encode())}}))


def test_records_without_a_size_are_compared_by_content(photos, tmp_path):  # noqa: F811
    embed(photos, tmp_path / "index")
    records = [json.loads(line) for line in (tmp_path / "index" / "images.jsonl").read_text().splitlines()]
    del records[0]["size"]
    records[1]["sha256"] = records[2]["size"] = []
    rewrite(tmp_path / "index", "images.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert update(SearchIndex(tmp_path / "index"), 1, DISPLAY).startswith("0 embedded, 2 moved or copied")


@pytest.mark.parametrize("text", ["garbage\n", "7\n", '{"reason": "x"}\n', "[" * 100_000])
def test_a_damaged_list_is_named(photos, tmp_path, text):  # noqa: F811
    embed(photos, tmp_path / "index")
    rewrite(tmp_path / "index", "unreadable.jsonl", text)
    for change in (lambda index: remove(index, ["class 0/00"]), lambda index: update(index, 1, DISPLAY)):
        with pytest.raises(UserError, match=r"unreadable.jsonl is damaged"):
            change(SearchIndex(tmp_path / "index"))


@pytest.mark.parametrize("kind, words", [("folder", "; `update` will add them again"), ("shards", "")])
def test_an_update_is_only_promised_where_there_is_one(photos, tmp_path, kind, words):  # noqa: F811
    index = embed(photos, tmp_path / "index")
    index.summary["images"]["kind"] = kind
    assert remove(index, ["class 0/00"]).removesuffix(" if their files still exist") == f"1 removed{words}"
