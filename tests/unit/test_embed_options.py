"""Where `embed` may write, and what it says of a whitening that has too few images."""

import argparse

import pytest

from dist_plm import embed
from dist_plm.distributed.world import World
from dist_plm.encoders.frozen import frozen_network
from dist_plm.errors import UserError
from dist_plm.telemetry.progress import Display


def test_an_index_does_not_lie_among_its_images(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "link").symlink_to(photos)
    for out in (photos / "index", photos / "new" / "index", tmp_path / "link" / "index"):
        words = ["embed", "--backbone", "small", "--images", str(photos), "--out", str(out)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(UserError, match=r"--out .* lies in --images .*: choose a folder beside it"):
            embed.main()
    assert not list(photos.iterdir())


def test_folders_above_the_index_are_made(tmp_path):
    with embed._folder_beside(tmp_path / "new" / "folder" / "index") as name:
        assert [str(path) for path in (tmp_path / "new" / "folder").iterdir()] == [name]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"index can't be written .*: choose another folder with --out"),
        embed._folder_beside(tmp_path / "file" / "index"),
    ):
        pass


def test_a_whitening_with_too_many_dimensions_names_its_own_options(tmp_path, tiny_split):
    tiny_split([6])
    options = argparse.Namespace(
        backbone="small", weights="", size=16, resize=16, pooling=None, whiten=str(tmp_path), dim=500
    )
    with pytest.raises(UserError, match=r"--dim 500: .* 6 images of --whiten .* lower --dim") as error:
        frozen_network(options, tmp_path / "sweep", World(), Display(World()))
    assert "head_start" not in str(error.value) and "run_dir" not in str(error.value)
