"""The Caffe GoogLeNet against its layers written out with torch's primitives, on the published weights."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from dist_plm.errors import UserError
from dist_plm.model import build_backbone
from dist_plm.model.bvlc_googlenet import BvlcGooglenet, LocalResponseNorm
from tests.settings import model_of

SHARED = Path(os.environ.get("DIST_PLM_SHARED", Path(__file__).parents[2] / ".." / "shared"))
WEIGHTS = SHARED / "weights" / "bvlc_googlenet_fp16.safetensors"


@pytest.fixture(scope="module")
def caffe():
    if not WEIGHTS.is_file():
        pytest.skip(f"no published weights at {WEIGHTS} (set DIST_PLM_SHARED)")
    return {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}


def images(count=4, size=97):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def caffe_forward(w, rgb):
    """Layer after layer as in Caffe's train_val.prototxt, with every rectifier and pool in its own place."""

    def conv(x, name, stride=1, pad=0):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, pad).clamp_min(0)

    def pool(x):
        # Caffe's ceil: pad by what the last window lacks, then the ordinary floor.
        side = x.shape[-1]
        out = -(-(side - 3) // 2) + 1
        lack = (out - 1) * 2 + 3 - side
        return F.max_pool2d(F.pad(x, (0, lack, 0, lack), value=float("-inf")), 3, 2)

    def inception(x, name):
        five = conv(conv(x, f"{name}/5x5_reduce"), f"{name}/5x5", pad=2)
        three = conv(conv(x, f"{name}/3x3_reduce"), f"{name}/3x3", pad=1)
        pooled = conv(F.max_pool2d(x, 3, 1, 1), f"{name}/pool_proj")
        return torch.cat([conv(x, f"{name}/1x1"), three, five, pooled], 1)

    blue_green_red = torch.stack([rgb[:, 2] - 104.0, rgb[:, 1] - 117.0, rgb[:, 0] - 123.0], 1)
    x = F.local_response_norm(pool(conv(blue_green_red, "conv1/7x7_s2", 2, 3)), 5, 1e-4, 0.75, 1.0)
    x = pool(F.local_response_norm(conv(conv(x, "conv2/3x3_reduce"), "conv2/3x3", pad=1), 5, 1e-4, 0.75, 1.0))
    for name in ("3a", "3b", "pool", "4a", "4b", "4c", "4d", "4e", "pool", "5a", "5b"):
        x = pool(x) if name == "pool" else inception(x, f"inception_{name}")
    return x


@pytest.mark.parametrize("size", [64, 97, 227])
def test_feature_map_equals_the_layers_written_out(caffe, size):
    rgb = images(size=size)
    expected = caffe_forward(caffe, rgb.float())
    with torch.no_grad():
        actual = build_backbone(model_of(weights=str(WEIGHTS)))(rgb)
    assert actual.shape == expected.shape
    assert expected.abs().max() > 1
    torch.testing.assert_close(actual, expected, atol=1e-4 * float(expected.max()), rtol=1e-4)


def test_local_response_norm_equals_a_loop_over_channels():
    maps = 100 * torch.randn(2, 7, 3, 3, dtype=torch.float64)
    expected = torch.empty_like(maps)
    for channel in range(7):
        near = maps[:, max(0, channel - 2) : channel + 3]
        expected[:, channel] = maps[:, channel] / (1 + 1e-4 / 5 * (near**2).sum(1)) ** 0.75
    torch.testing.assert_close(LocalResponseNorm(7).double()(maps), expected, rtol=1e-7, atol=0)


def reference_norm(maps):
    """The layer as plain operations, differentiated by autograd."""
    near = (torch.arange(maps.shape[1])[:, None] - torch.arange(maps.shape[1])).abs() <= 2
    return maps * (1 + F.conv2d(maps * maps, near[:, :, None, None] * maps.new_tensor(1e-4 / 5))).pow(-0.75)


def value_and_gradient(norm, maps, weights):
    leaf = maps.clone().requires_grad_()
    out = norm(leaf)
    (gradient,) = torch.autograd.grad((out * weights).sum(), leaf)
    return out.detach(), gradient


@pytest.mark.parametrize("scale", [1.0, 100.0, 3000.0])
def test_local_response_norm_has_the_value_and_gradient_of_plain_operations(scale):
    draw = torch.Generator().manual_seed(0)
    maps, weights = (torch.randn(2, 64, 9, 9, generator=draw, dtype=torch.float64) for _ in range(2))
    maps *= scale
    norm = LocalResponseNorm(64)
    truth = value_and_gradient(reference_norm, maps, weights)
    for dtype, value_error, gradient_error in ((torch.float64, 1e-7, 1e-7), (torch.float32, 2e-5, 5e-7)):
        found = value_and_gradient(norm.to(dtype), maps.to(dtype), weights.to(dtype))
        torch.testing.assert_close(found[0].double(), truth[0], rtol=value_error, atol=0)
        assert (found[1].double() - truth[1]).norm() <= gradient_error * truth[1].norm()
        with torch.no_grad():
            assert torch.equal(norm(maps.to(dtype)), found[0]), "the path without gradients has other bits"
    assert torch.autograd.gradcheck(LocalResponseNorm(6).double(), maps[:1, :6, :2, :2].clone().requires_grad_())


def test_local_response_norm_stays_in_bf16_under_its_autocast():
    draw = torch.Generator().manual_seed(0)
    maps, weights = (100 * torch.randn(2, 64, 9, 9, generator=draw) for _ in range(2))
    truth = value_and_gradient(reference_norm, maps, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradient(LocalResponseNorm(64), maps.bfloat16(), weights)
        assert LocalResponseNorm(64)(maps).dtype == torch.bfloat16
    for actual, expected in zip(found, truth, strict=True):
        assert (actual.float() - expected).norm() <= 0.01 * expected.norm()  # bf16 has 8 bits: 0.2 % an operation


def test_local_response_norm_survives_activations_whose_squares_overflow_half_precision():
    maps = torch.full((1, 8, 2, 2), 1000.0)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(LocalResponseNorm(8)(maps.half()), LocalResponseNorm(8)(maps))


def test_random_weights_keep_the_scale_of_caffe():
    weight = BvlcGooglenet().conv2["3x3"].weight
    bound = (3 / (64 * 9)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound


def test_the_classifier_may_be_absent_but_nothing_else(caffe, tmp_path):
    trunk = {name: tensor for name, tensor in caffe.items() if not name.startswith("loss3")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    build_backbone(model_of(weights=str(tmp_path / "trunk.safetensors")))

    del trunk["inception_4d/5x5.bias"]
    trunk["conv1/7x7_s2.bias"] = torch.zeros(63)
    trunk["conv9/odd.weight"] = torch.zeros(1)
    save_file(trunk, tmp_path / "broken.safetensors")
    with pytest.raises(UserError) as caught:
        build_backbone(model_of(weights=str(tmp_path / "broken.safetensors")))
    for part in ("inception_4d.5x5.bias", "conv1.7x7_s2.bias [63] instead of [64]", "conv9.odd.weight"):
        assert part in str(caught.value)
