"""From images to an index to neighbours: as counted by hand, on any ranks, whatever is unreadable."""

import io
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch.distributed as dist
from PIL import Image

import dist_plm
from dist_plm import embed as embedding
from dist_plm import search as searching
from dist_plm.data.store import Store
from dist_plm.errors import UserError
from dist_plm.search_index.build import Builder
from dist_plm.search_index.search_index import SearchIndex
from tests.commands import Command, on_ranks, together
from tests.end_to_end.conftest import contents, events, refused


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, finished: Path, demo: Path) -> Path:
    """The test split of the demo, by the student."""
    out = tmp_path_factory.mktemp("indexed") / "index"
    embed(out, "--checkpoint", finished, "--shards", demo)
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """The first 30 test images in folders of their classes, and files that are no images."""
    folder = tmp_path_factory.mktemp("photos")
    with Store(demo, "test") as store:
        for id in range(30):
            path = folder / f"class {store.labels[id]}" / f"{id:02d}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(store.read(id))
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "half.jpeg").write_bytes(path.read_bytes()[:300])
    (folder / "notes.txt").write_text("no image either")
    (folder / ".hidden.jpg").write_bytes(path.read_bytes())
    return folder


def embed(out: Path, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["embed", *map(str, arguments), "--out", str(out)])
        assert embedding.main() == 0


def test_the_index_holds_what_the_encoder_gives(indexed, finished, demo):
    search_index = SearchIndex(indexed)
    with Store(demo, "test") as store:
        pictures = [store.read(id) for id in range(len(store))]
        labels = [store.classes[label] for label in store.labels]
        sources = [store.about(id)["source"] for id in range(len(store))]
    expected = dist_plm.embed_images(dist_plm.load_encoder(finished), pictures, batch_size=20)
    assert np.abs(search_index.embeddings - expected).max() < 1e-6
    assert np.abs(np.linalg.norm(expected, axis=1) - 1).max() < 1e-6
    assert [row["label"] for row in search_index.rows] == labels
    assert [row["name"] for row in search_index.rows] == sources
    index = faiss.read_index(str(indexed / "index.faiss"))
    assert np.array_equal(index.reconstruct_n(0, 100), search_index.embeddings)
    assert not list(indexed.parent.glob(".*"))


def test_an_index_of_several_splits(indexed, finished, demo, tmp_path):
    embed(out := tmp_path / "index", "--checkpoint", finished, "--shards", demo, "--split", "test", "train")
    search_index = SearchIndex(out)
    assert np.abs(search_index.embeddings[:100] - SearchIndex(indexed).embeddings).max() < 1e-6
    with Store(demo, "test") as test, Store(demo, "train") as train:
        for row, store, id in ((0, test, 0), (99, test, 99), (100, train, 0), (199, train, 99)):
            assert search_index.images.read(row) == store.read(id)
            assert search_index.rows[row]["split"] == store.split
            assert search_index.rows[row]["label"] == store.classes[store.labels[id]]
    assert len(search_index.images) == 200

    rows = (out / "images.jsonl").read_text()
    (out / "images.jsonl").write_text(rows.replace('"split": "train"', '"split": "../ab"'))
    with pytest.raises(UserError, match="has no valid location of its images"):
        SearchIndex(out).images  # noqa: B018


def test_neighbours_are_those_of_a_full_sort(indexed):
    search_index = SearchIndex(indexed)
    points = np.asarray(search_index.embeddings, dtype=np.float64)
    for row, neighbours in zip((0, 57, 99), search_index.search(points[[0, 57, 99]], 25), strict=True):
        distances = np.linalg.norm(points - points[row], axis=1)
        assert [each.row for each in neighbours] == np.argsort(distances, kind="stable")[:25].tolist()
        assert [each.rank for each in neighbours] == list(range(1, 26))
        for each in neighbours:
            assert each.distance == pytest.approx(distances[each.row], abs=1e-6)
            assert each.cosine == pytest.approx(1 - distances[each.row] ** 2 / 2, abs=1e-6)


def test_recall_of_the_index_is_that_of_the_evaluation(indexed, finished):
    search_index = SearchIndex(indexed)
    classes = {name: number for number, name in enumerate(sorted({row["label"] for row in search_index.rows}))}
    labels = [classes[row["label"]] for row in search_index.rows]
    found = dist_plm.evaluate_embeddings(np.asarray(search_index.embeddings), labels)
    reported = events(finished, "eval")[-2]
    assert {str(k): share for k, share in found["recall"].items()} == reported["recall"]
    assert found["map_at_r"] == pytest.approx(reported["map_at_r"], rel=1e-9)


def test_ranks_make_the_same_index(indexed, finished, demo, tmp_path, monkeypatch):
    arguments = ("--checkpoint", finished, "--shards", demo, "--out", tmp_path / "index")
    outcome = together(on_ranks(2, "dist_plm.embed", *arguments))
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("100 images in dimension 16") == 1
    for name in ("embeddings.npy", "images.jsonl", "index.faiss", "encoder/model.safetensors"):
        assert (tmp_path / "index" / name).read_bytes() == (indexed / name).read_bytes(), name


def test_a_folder_with_files_that_are_no_images(photos, finished, tmp_path, here):
    out = tmp_path / "index"
    outcome = here(embedding.main, "--checkpoint", finished, "--images", photos, "--out", out)
    assert outcome.status == 0, outcome.err
    assert "30 images in dimension 16" in outcome.out and "4 unreadable" in outcome.out
    assert f"files of {photos}: 35\n" in outcome.out and "1 ignored" in outcome.out
    left_out = [json.loads(line) for line in (out / "unreadable.jsonl").read_text().splitlines()]
    assert {each["name"]: each["reason"].split(":")[0] for each in left_out} == {
        "empty.png": "empty file",
        "half.jpeg": "damaged image",
        "notes.txt": "not an image",
        "text.jpg": "not an image",
    }
    search_index = SearchIndex(out)
    for row in (0, 29):
        path = photos / search_index.rows[row]["name"]
        assert search_index.images.read(row) == path.read_bytes()
        assert search_index.rows[row]["label"] == path.parent.name
        assert dist_plm.search_images(search_index, [path], k=1)[0][0].row == row


def test_a_killed_build_goes_on(photos, finished, tmp_path, monkeypatch, indexed):
    monkeypatch.setattr("dist_plm.search_index.build.BLOCK", 8)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    embed(whole, "--checkpoint", finished, "--images", photos)
    done: list[int] = []
    block = Builder._block

    def killed(self, numbers, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(numbers.start)
        block(self, numbers, *arguments)

    monkeypatch.setattr(Builder, "_block", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(broken, "--checkpoint", finished, "--images", photos)
    if dist.is_initialized():
        dist.destroy_process_group()
    assert not broken.exists()
    again: list[int] = []
    monkeypatch.setattr(Builder, "_block", lambda self, n, *rest: (again.append(n.start), block(self, n, *rest)))
    embed(broken, "--checkpoint", finished, "--images", photos)
    assert done == [0, 8] and again == [16, 24, 32]
    for name in ("embeddings.npy", "images.jsonl", "unreadable.jsonl", "index.faiss"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))


def test_search_prints_a_table_and_draws_a_sheet(photos, indexed, tmp_path, here):
    query = next(photos.glob("*/00.jpg"))
    outcome = here(searching.main, indexed, "--image", query, "--k", "7", "--sheet", tmp_path / "sheet.png")
    assert outcome.status == 0, outcome.err
    rows = [line.split("│")[1:-1] for line in outcome.out.splitlines() if line.startswith("│")]
    assert [int(row[0]) for row in rows] == list(range(1, 8))
    expected = dist_plm.search_images(indexed, [query], k=7)[0]
    assert [row[4].strip() for row in rows] == [each.name for each in expected]
    assert expected[0].distance == pytest.approx(0, abs=1e-5) and rows[0][1].strip() == "1.0000"
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = np.asarray(sheet.convert("RGB"))
        assert sheet.format == "PNG" and sheet.width > 1000
        # The query, blown up on the left: its middle is that of the file.
        with Image.open(query) as picture:
            centre = np.asarray(picture.convert("RGB").resize((3, 3), Image.Resampling.BOX), dtype=float)[1, 1]
        shown = colours[28:424, 28:424].reshape(3, 132, 3, 132, 3).mean((1, 3))[1, 1]
        assert np.abs(shown - centre).max() < 8


def test_wrong_uses(tmp_path, finished, demo, indexed, photos, here):
    (tmp_path / "no.jpg").write_text("not an image")
    (tmp_path / "none").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.jpg").write_text("not an image")
    query = next(photos.glob("*/00.jpg"))
    before = contents(tmp_path)
    into = ("--checkpoint", finished, "--out", tmp_path / "out")
    for named, command, arguments in [
        ("--shards", embedding.main, into),
        ("not allowed with", embedding.main, (*into, "--shards", demo, "--images", photos)),
        ("is not a folder", embedding.main, (*into, "--images", tmp_path / "nowhere")),
        ("has no files", embedding.main, (*into, "--images", tmp_path / "none")),
        ("none of the 1 images", embedding.main, (*into, "--images", tmp_path / "blank")),
        ("has no split 'tset'", embedding.main, (*into, "--shards", demo, "--split", "tset")),
        ("exists", embedding.main, ("--checkpoint", finished, "--out", indexed, "--images", photos)),
        ("neither a run", embedding.main, ("--checkpoint", demo, "--out", tmp_path / "out", "--images", photos)),
        ("--workers is 0", embedding.main, (*into, "--images", photos, "--workers", "0")),
        ("is not an index", searching.main, (demo, "--image", query)),
        ("not an image", searching.main, (indexed, "--image", tmp_path / "no.jpg")),
        ("cannot be read", searching.main, (indexed, "--image", tmp_path / "gone.jpg")),
        ("k is 0", searching.main, (indexed, "--image", query, "--k", "0")),
        ("k is 141", searching.main, (indexed, "--image", query, "--k", "141")),
        (".png", searching.main, (indexed, "--image", query, "--sheet", tmp_path / "sheet.jpg")),
    ]:
        refused(here(command, *arguments), named)
        assert contents(tmp_path) == before, named


def test_a_damaged_index_is_refused(tmp_path, indexed, demo):
    def refuse(match: str, change, images: object = "") -> None:
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        shutil.copytree(indexed, tmp_path / "index")
        change(tmp_path / "index")
        with pytest.raises(UserError, match=match):
            _ = SearchIndex(tmp_path / "index", images=images).images

    def told(**values):
        def change(folder: Path) -> None:
            path = folder / "index.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | values))

        return change

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    def leads_out(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
        rows[3]["name"] = "../../etc/passwd"
        (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        told(files={}, images={"kind": "folder", "folder": str(folder)})(folder)

    summary = json.loads((indexed / "index.json").read_text())
    refuse("index.faiss is damaged", lambda folder: (folder / "index.faiss").write_bytes(b"short"))
    refuse(r"embeddings.npy has .* = \(100, 16\), index.json says \(100, 15\)", told(dim=15))
    refuse("sha256 differs", lambda folder: flip(folder / "encoder" / "model.safetensors"))
    refuse("is of format 9", told(format=9))
    refuse("index.json is damaged", lambda folder: (folder / "index.json").write_text("{"))
    refuse("outside of", leads_out)
    refuse("was not made by this account", told(images={**summary["images"], "fingerprint": "0"}))
    refuse("is not the data set of this index", told(images={**summary["images"], "fingerprint": "0"}), images=demo)
    refuse("which is missing", told(images={"kind": "folder"}), images="/nowhere")


def test_importing_the_package_alone_takes_no_torch():
    names = "embed_images", "evaluate_embeddings", "load_encoder", "manifold", "search_images"
    code = f"import sys, dist_plm; assert 'torch' not in sys.modules; assert set({names}) == set(dist_plm.__all__)"
    # Seconds of every start, on every rank, that only some backbones and plans have a use for.
    code += "; from dist_plm import search_images, manifold; from dist_plm.training import trainer, evaluator"
    code += "; print(manifold.point_loss)"
    code += "; assert not {'torchvision', 'scipy.optimize'} & set(sys.modules)"
    outcome = Command(["-c", code]).wait()
    assert outcome.status == 0 and "point_loss" in outcome.out, outcome.err


def test_pictures_of_any_kind_embed_alike(finished, demo):
    encoder = dist_plm.load_encoder(finished, "teacher")
    with Store(demo, "test") as store:
        data = store.read(3)
    picture = Image.open(io.BytesIO(data))
    one, two = dist_plm.embed_images(encoder, [data, picture])
    assert np.array_equal(one, two) and dist_plm.embed_images(encoder, []).shape == (0, 16)
    with pytest.raises(UserError, match="image 1: not an image"):
        dist_plm.embed_images(encoder, [data, b"text"])
