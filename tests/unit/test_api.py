"""The Python functions with what people give them: the same embedding by every way in, and words for what is none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import dist_plm
from dist_plm.encoders.embedder import Embedder
from dist_plm.errors import UserError
from tests.unit.test_decode import encoded, photograph
from tests.untrained import untrained


@pytest.fixture(scope="module")
def encoder() -> Embedder:
    torch.manual_seed(0)
    return untrained(resize=20)


EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    "data",
    [
        encoded(photograph(), "JPEG", exif=EXIF),
        encoded(Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60), "PNG"),
        encoded(photograph().convert("LA"), "PNG"),
        encoded(photograph().rotate(20).convert("RGBA"), "PNG"),
    ],
    ids=["turned", "16 bit", "grey and alpha", "rgba"],
)
def test_one_picture_has_one_embedding(encoder, tmp_path, data):
    path = tmp_path / "picture"
    path.write_bytes(data)
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    rows = dist_plm.embed_images(encoder, [path, str(path), data, Image.open(path), loaded, io.BytesIO(data)])
    assert (rows == rows[0]).all() and np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6


def test_a_batch_of_arrays(encoder):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 30, 3), np.uint8)
    rows = dist_plm.embed_images(encoder, pixels, batch_size=np.int64(2))
    assert np.abs(rows - dist_plm.embed_images(encoder, [Image.fromarray(each) for each in pixels])).max() < 1e-6


CUT = encoded(photograph(), "JPEG")[:700]


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ("photo.jpg", "images is a single str"),
        (b"bytes", "images is a single bytes"),
        (photograph(), "images is a single Image"),
        (io.BytesIO(CUT), "images is a single BytesIO"),
        (np.zeros((8, 8, 3), np.uint8), r"images is a single array of shape \[8, 8, 3\]"),
        (None, "images is a NoneType: pass a list"),
        (7, "images is a int: pass a list"),
        ([7], "image 0: int is not an image"),
        ([None], "image 0: NoneType is not an image"),
        (["nowhere.jpg"], "nowhere.jpg: No such file"),
        (["/"], "/: Is a directory|/: not a regular file"),
        ([photograph(), CUT], "image 1: damaged image"),
        ([Image.open(io.BytesIO(CUT))], "image 0: damaged image"),
        ([Image.new("RGB", (0, 0))], "image 0: 0 x 0 pixels"),
        ([io.StringIO("text")], "image 0: a file opened as text"),
        ([np.zeros((3, 8, 8), np.uint8)], r"image 0: an array of shape \[3, 8, 8\]"),
        ([np.zeros((8, 8))], "image 0: an array of float64"),
        ([Image.new("F", (4, 4))], "image 0: damaged image: floating-point"),
        (["a\0b"], "embedded null"),
    ],
)
def test_what_is_no_picture_is_told_in_words(encoder, images, named):
    with pytest.raises(UserError, match=named):
        dist_plm.embed_images(encoder, images)


@pytest.mark.parametrize("size", [0, -1, 2.5, None, True, "8"])
def test_a_batch_of_no_size_is_told_in_words(encoder, size):
    with pytest.raises(UserError, match="batch_size is"):
        dist_plm.embed_images(encoder, [photograph()], batch_size=size)


def test_other_arguments_are_told_in_words(encoder, tmp_path):
    with pytest.raises(UserError, match="encoder is a str: pass the result of load_encoder"):
        dist_plm.embed_images("runs/demo", [photograph()])
    with pytest.raises(UserError, match="index is a NoneType"):
        dist_plm.search_images(None, [photograph()])


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"size": 0}, "size is 0: it must be a positive integer"),
        ({"size": -8}, "size is -8"),
        ({"resize": 0}, "resize is 0"),
        ({"size": 300}, "size is 300 and resize 256"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which can't be used here"),
        ({"device": "gpu"}, "device is 'gpu', which can't be used here"),
    ],
)
def test_a_crop_or_device_that_there_is_not(monkeypatch, asked, named):
    monkeypatch.setattr(dist_plm.api, "module_embedder", lambda *_, **settings: settings)  # it would search for ever
    with pytest.raises(UserError, match=named):
        dist_plm.load_encoder(torch.nn.Identity(), **asked)
    assert dist_plm.load_encoder(torch.nn.Identity(), size=64, resize=64)["size"] == 64
