"""The toy of figure 1 learns what it shows, and its command draws it."""

import sys

import pytest
import torch
from PIL import Image

from dist_plm import toy
from dist_plm.cli import run_command


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["toy", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        run_command(toy.main)
    return leaving.value.code


def test_the_curves_touch_in_the_plane_alone_and_come_apart():
    x, curve = toy.curves(36, seed=0)
    other = curve[:, None] != curve
    flat, space = torch.cdist(x[:, :2], x[:, :2])[other].min(), torch.cdist(x, x)[other].min()
    assert float(flat) < 0.05 and float(space) > 0.4
    frames, again = toy.train(150, 36, seed=0, frames=2)
    assert torch.equal(again, curve) and torch.equal(frames[0].points, x[:, :2])
    assert frames[0].purity < 0.85 and frames[-1].purity > 0.95


def test_segments_lie_on_the_neighbourhoods_and_hold_their_point():
    frames, _ = toy.train(1, 20, seed=1, frames=1)
    ends = toy._segments(frames[-1])
    points, u = frames[-1].points, frames[-1].neighbourhoods.basis[:, :, 0]
    offsets = ends - points[:, None]
    across = offsets[..., 0] * u[:, None, 1] - offsets[..., 1] * u[:, None, 0]
    assert torch.allclose(across, torch.zeros_like(across), atol=1e-6)
    assert ((offsets[:, 0] * offsets[:, 1]).sum(1) <= 1e-9).all()  # the ends lie on either side of the point


def test_a_seed_beyond_64_bits_is_refused(tmp_path, monkeypatch, capsys):
    for seed in (2**64, -(2**63) - 1):
        assert run(monkeypatch, "--out", tmp_path, "--steps", 1, f"--seed={seed}") == 2
        assert f"--seed {seed}: must lie in" in capsys.readouterr().err


def test_two_pictures(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--out", tmp_path / "new", "--steps", 2, "--points", 12) == 0
    with Image.open(tmp_path / "new" / "crossing_curves.gif") as moving:
        assert moving.n_frames == 3
    assert Image.open(tmp_path / "new" / "crossing_curves.png").size == (1380, 690)
    assert "after 2 steps" in capsys.readouterr().out
    assert run(monkeypatch, "--out", tmp_path, "--steps", 0) == 2
