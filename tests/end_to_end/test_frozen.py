"""A pretrained network in place of a trained one: evaluated, embedded, searched, reported, and refused in words."""

import importlib.util
import json
import socket

import numpy as np
import pytest

from dist_plm import embed as embedding
from dist_plm import evaluate as evaluation
from dist_plm import search as searching
from dist_plm.data.store import Store
from dist_plm.report import __main__ as reporting
from dist_plm.search_index import __main__ as maintaining
from tests.end_to_end.conftest import refused

timm = pytest.importorskip("timm")
from safetensors.torch import save_file  # noqa: E402

NETWORK = "timm/test_vit"
OWN = "tests.networks:vit_16"


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> tuple[object, ...]:
    """Options of a random transformer whose weights lie in a file."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return "--backbone", NETWORK, "--weights", path, "--size", 32, "--resize", 36


def test_evaluated_embedded_searched_and_reported_alike(network, demo, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whitened = (*network, "--whiten", demo, "--dim", 8)
    outcome = here(evaluation.main, "--shards", demo, *whitened)
    assert outcome.status == 0, outcome.err
    frozen, white = (json.loads(line) for line in outcome.out.splitlines())
    assert (frozen["model"], white["model"]) == ("frozen", "whitened")

    with Store(demo, "test") as store:
        labels, query = np.asarray(store.labels), store.read(5)
    (tmp_path / "query.jpg").write_bytes(query)
    for options, result, dim in ((network, frozen, 64), (whitened, white, 8)):
        out = tmp_path / f"{dim}.index"
        assert here(embedding.main, "--shards", demo, "--out", out, *options).status == 0
        vectors = np.load(out / "embeddings.npy").astype(np.float64)
        assert vectors.shape == (len(labels), dim)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        assert result["recall"]["1"] == pytest.approx((labels[cosines.argmax(1)] == labels).mean(), abs=1e-9)
        # The index holds its network: neither the name nor the file of weights is said again.
        found = here(searching.main, out, "--image", "query.jpg", "--k", 1)
        assert found.status == 0 and "1.0000" in found.out, found
    refused(
        here(searching.main, out, "--image", "query.jpg", "--backbone", "timm/test_resnet"), "embedded by timm/test_vit"
    )

    assert here(reporting.main, "--shards", demo, *whitened).status == 0
    page = (tmp_path / "report.html").read_text()
    for result in (frozen, white):
        assert f'R@1 {result["model"]}</dt><dd><div class="value">{100 * result["recall"]["1"]:.1f} %' in page
    assert page.count("<figure") > 40 and "Neighbourhoods" not in page


def test_an_index_of_ones_own_network_is_kept_up_to_date_where_its_code_is_named(demo, tmp_path, here):
    pytest.importorskip("timm")
    photos, out = tmp_path / "photos", tmp_path / "index"
    photos.mkdir()
    with Store(demo, "test") as store:
        for id in range(3):
            (photos / f"{id}.jpg").write_bytes(store.read(id))
    code = ("--backbone", OWN)
    assert here(embedding.main, "--images", photos, "--out", out, *code, "--size", 16, "--resize", 16).status == 0
    (photos / "3.jpg").write_bytes((photos / "0.jpg").read_bytes()[:-2] + b"\xff\xd9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dist_plm.model.own_backbone._allowed", set())
        for command in (("update", out), ("list", out)):
            refused(here(maintaining.main, *command), f"repeat the command with --backbone {OWN}")
        assert here(maintaining.main, "update", out, *code).status == 0
    assert len(np.load(out / "embeddings.2.npy")) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "no network: name a trained one with"),
        (("--backbone", NETWORK, "--dim", "4"), "--whiten SHARDS"),
        (("--backbone", NETWORK, "--whiten", "x", "--dim", "-1"), "--dim is -1"),
        (("--backbone", NETWORK, "--weights", "gone.pth"), "gone.pth"),
        (("--backbone", "timm/test_vitt"), "did you mean timm/test_vit"),
        (("--backbone", NETWORK, "--size", "40", "--resize", "32"), "does not fit into a shorter side"),
    ],
)
def test_mistakes_are_refused_by_each_command(options, told, demo, tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (evaluation, embedding, reporting):
        out = ("--out", "x.html") if command is reporting else ("--out", "index") if command is embedding else ()
        refused(here(command.main, "--shards", demo, *options, *out), told)
    assert not list(tmp_path.iterdir())


def test_options_of_a_pretrained_network_are_refused_beside_a_trained_one(finished, demo, here):
    given = ("--weights", "w.pth", "--pooling", "avg")
    told = "--weights, --pooling: only for a pretrained network"
    refused(here(evaluation.main, "--checkpoint", finished, *given), told)
    refused(here(reporting.main, finished, *given), told)
    refused(here(reporting.main, "--backbone", NETWORK), "name one with --shards")


def test_weights_that_cannot_be_loaded_end_a_run_before_it_begins(mistaken, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("files")
    save_file(timm.create_model("test_vit2", num_classes=0).state_dict(), folder / "other.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "other.safetensors").read_bytes()[:-100])
    network = ("--model.backbone", NETWORK, "--model.pooling", "cls", "--model.weights")
    mistaken("truncated or damaged", *network, folder / "cut.safetensors")
    mistaken("does not fit the backbone", *network, folder / "other.safetensors")
    mistaken("did you mean timm/test_vit", "--model.backbone", "timm/test_vitt")

    def offline(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    mistaken("Download https://", *network, "pretrained", HF_HUB_CACHE=str(folder))
    found = importlib.util.find_spec
    monkeypatch.setattr("dist_plm.model.timm_backbone.find_spec", lambda name: None if name == "timm" else found(name))
    mistaken("needs timm: pip install", *network, "")
