"""Backbones by name, weights from files, and the head, pooling and normalisation of the encoder."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model import Encoder, build_backbone, check_model
from dist_plm.model.torchvision_backbone import supported


def images(count=3, size=64):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pooling", ["avg_max", "avg", "max"])
def test_embedding_equals_numpy(pooling):
    encoder = Encoder(ModelConfig(backbone="small", dim=16, pooling=pooling), seed=3)
    torch.nn.init.normal_(encoder.head.bias)
    maps = encoder.backbone(images()).detach().numpy().astype(np.float64)
    average, largest = maps.mean((2, 3)), maps.max((2, 3))
    pooled = {"avg_max": average + largest, "avg": average, "max": largest}[pooling]
    point = pooled @ encoder.head.weight.detach().numpy().T + encoder.head.bias.detach().numpy()
    expected = point / np.linalg.norm(point, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder(images()).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dim", [16, 200])
def test_head_is_orthogonal_with_zero_bias(dim):
    head = Encoder(ModelConfig(backbone="small", dim=dim)).head
    weight = head.weight.detach()
    product = weight @ weight.T if dim <= 128 else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(min(dim, 128)), atol=1e-5, rtol=0)
    assert not head.bias.any()


@pytest.mark.parametrize("backbone", ["small", "bvlc_googlenet", "resnet18"])
def test_seed_alone_decides_the_weights_and_nothing_outside_is_reseeded(backbone):
    config = ModelConfig(backbone=backbone, dim=8)
    torch.manual_seed(11)
    first = Encoder(config, seed=5).state_dict()
    after = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(12)
    second, other = Encoder(config, seed=5).state_dict(), Encoder(config, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_are_fp32_and_of_unit_length_under_autocast(dtype):
    encoder = Encoder(ModelConfig(backbone="small", dim=16))
    with torch.autocast("cpu", dtype=dtype):
        assert encoder.backbone(images()).dtype != torch.float64
        points = encoder(images())
    assert points.dtype == torch.float32
    torch.testing.assert_close(points.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(points, encoder(images()), atol=0.03, rtol=0)


def test_double_precision_throughout():
    encoder = Encoder(ModelConfig(backbone="small", dim=16))
    single = encoder(images())
    double = encoder.double()(images())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-5, rtol=0)


def test_a_row_does_not_depend_on_the_rest_of_its_batch():
    encoder = Encoder(ModelConfig(backbone="small", dim=16)).train()
    torch.testing.assert_close(encoder(images())[:1], encoder(images()[:1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 512), ("mobilenet_v3_small", 576), ("shufflenet_v2_x0_5", 1024), ("squeezenet1_1", 512)],
)
def test_convolutional_map_pooled_and_classified_equals_the_whole_model(name, channels):
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None).eval()
    backbone = build_backbone(ModelConfig(backbone=name)).eval()
    backbone.trunk.load_state_dict(whole.state_dict(), strict=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = whole((images() / 255 - mean[:, None, None]) / std[:, None, None])
    maps = backbone(images())
    assert maps.shape[1] == backbone.features == channels
    if name == "squeezenet1_1":
        actual = whole.classifier(maps).flatten(1)
    else:
        actual = (whole.classifier if name.startswith("mobilenet") else whole.fc)(maps.mean((2, 3)))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_transformer_returns_its_class_token_and_takes_any_size():
    whole = torchvision.models.vit_b_32(weights=None).eval()
    torch.nn.init.normal_(whole.heads.head.weight)
    backbone = build_backbone(ModelConfig(backbone="vit_b_32")).eval()
    backbone.trunk.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        token = backbone(images(1, 224))
        torch.testing.assert_close(
            whole.heads(token.flatten(1)), whole(backbone.pixels(images(1, 224))), atol=1e-3, rtol=1e-4
        )
        assert backbone(images(1, 160)).shape == token.shape == (1, 768, 1, 1)


def test_training_mode_is_deterministic_without_dropout_and_stochastic_depth():
    encoder = Encoder(ModelConfig(backbone="efficientnet_b0", dim=8)).train()
    assert torch.equal(encoder(images()), encoder(images()))


def test_a_copy_of_a_traced_backbone_is_its_own():
    encoder = Encoder(ModelConfig(backbone="resnet18", dim=8))
    before, twin = encoder(images()), copy.deepcopy(encoder)
    torch.nn.init.zeros_(twin.backbone.trunk.conv1.weight)
    assert torch.equal(encoder(images()), before)
    assert not torch.equal(twin(images()), before)


def test_every_supported_family_is_offered():
    names = supported()
    for name in ("resnet50", "googlenet", "vgg16_bn", "densenet121", "efficientnet_b0", "convnext_tiny", "vit_b_16"):
        assert name in names
    assert "maxvit_t" not in names


def test_weights_of_a_whole_model_load_into_the_trunk(tmp_path):
    whole = torchvision.models.resnet18(weights=None, num_classes=7).state_dict()
    torch.save(whole, tmp_path / "whole.pth")
    save_file(whole, tmp_path / "whole.safetensors")
    for file in ("whole.pth", "whole.safetensors"):
        trunk = build_backbone(ModelConfig(backbone="resnet18", weights=str(tmp_path / file))).trunk.state_dict()
        assert all(torch.equal(trunk[name], whole[name]) for name in trunk)


def test_weights_of_another_network_are_refused_and_named(tmp_path):
    # 8 more blocks of 2 convolutions and 2 batch norms of 5 tensors: 96.
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"96 unknown: layer1\.2\.conv1\.weight") as caught:
        build_backbone(ModelConfig(backbone="resnet18", weights=str(tmp_path / "other.pth")))
    assert "other.pth" in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code of a weights file was run",))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_and_files_with_code_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    for content in (b"", b"no tensors at all", pickle.dumps({"stem.bias": Bomb()})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="weights"):
            build_backbone(ModelConfig(backbone="small", weights=str(path)))
    torch.save({"stem.bias": Bomb()}, path)
    with pytest.raises(UserError, match="weights"):
        build_backbone(ModelConfig(backbone="small", weights=str(path)))


def test_a_nested_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {"stem.bias": torch.zeros(32)}, "epoch": 3}, tmp_path / "nested.pt")
    with pytest.raises(UserError, match="flat dict"):
        build_backbone(ModelConfig(backbone="small", weights=str(tmp_path / "nested.pt")))


@pytest.mark.parametrize(
    ("backbone", "weights", "told"),
    [
        ("resnet5O", "", "resnet50"),
        ("bvlc_googlnet", "", "bvlc_googlenet"),
        ("maxvit_t", "", "convnext"),
        ("bvlc_googlenet", "imagenet", "BVLC model zoo"),
        ("small", "imagenet", "small"),
        ("small", "nowhere/file.pth", "nowhere/file.pth"),
        ("small", "file.zip", ".safetensors"),
    ],
)
def test_check_model_names_what_is_wrong(backbone, weights, told):
    with pytest.raises(UserError, match=told.replace(".", r"\.")):
        check_model(ModelConfig(backbone=backbone, weights=weights))


def test_check_model_accepts_what_can_be_built(tmp_path):
    (tmp_path / "x.pt").touch()
    for backbone, weights in [("small", ""), ("resnet50", "imagenet"), ("vit_b_16", ""), ("small", tmp_path / "x.pt")]:
        check_model(ModelConfig(backbone=backbone, weights=str(weights)))


def test_a_failed_download_says_where_to_put_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"resnet18-\w+\.pth") as caught:
        build_backbone(ModelConfig(backbone="resnet18", weights="imagenet"))
    assert str(tmp_path) in str(caught.value)
