"""Networks of timm and of one's own as backbones: what they return against timm itself, their weights, their errors."""

import importlib.util
import socket

import pytest
import torch
from safetensors.torch import save_file

from dist_plm.checks.settings import check
from dist_plm.config import Config, LoraConfig, ModelConfig, ViewsConfig
from dist_plm.encoders.exported import read_export
from dist_plm.encoders.frozen import frozen_encoder
from dist_plm.errors import UserError
from dist_plm.model import Encoder, build_backbone, check_model
from dist_plm.model.adapters import check_adapters, merge_adapters
from dist_plm.model.own_backbone import allow
from dist_plm.model.preprocessing import check_size, own_pooling, own_views
from dist_plm.model.split import split
from tests.untrained import export_to, untrained

timm = pytest.importorskip("timm")
IMAGES = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def config(name: str = "test_vit", **model) -> ModelConfig:
    return ModelConfig(**{"backbone": f"timm/{name}", "dim": 8, "pooling": "avg", **model})


def normalised(name: str) -> torch.Tensor:
    settings = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(each)[:, None, None] for each in (settings.mean, settings.std))
    return (IMAGES / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("test_resnet", "avg"), ("test_efficientnet", "avg"), ("test_vit", "cls"), ("test_vit3", "cls"),
     ("test_mambaout", "avg")],
)  # fmt: skip
def test_frozen_features_are_those_of_timm(name, pooling):
    model = config(name, pooling=pooling)
    encoder = frozen_encoder(Encoder(model), model).eval()
    with torch.no_grad():
        net = encoder.backbone.net
        features = net.forward_features(normalised(name))
        if name == "test_vit3":  # attention pooling moved behind the network
            expected = (
                encoder.backbone.neck.pool(features[:, 1:]) if not encoder.backbone.neck.class_token else features[:, 0]
            )
        elif features.ndim == 3:
            expected = features[:, 0]
        else:
            expected = features.mean((1, 2) if name == "test_mambaout" else (2, 3))
        torch.testing.assert_close(encoder(IMAGES), torch.nn.functional.normalize(expected), atol=1e-5, rtol=1e-4)


def test_poolings_of_tokens_are_those_of_their_definitions():
    encoders = {pooling: Encoder(config(pooling=pooling)).eval() for pooling in ("cls", "cls_avg", "gem", "max")}
    with torch.no_grad():
        tokens = encoders["cls"].backbone(IMAGES)
        found = {pooling: encoder.pool(tokens) for pooling, encoder in encoders.items()}
    patches = tokens[:, 1:]
    assert torch.equal(found["cls"], tokens[:, 0])
    assert torch.equal(found["cls_avg"], torch.cat([tokens[:, 0], patches.mean(1)], 1))
    assert torch.equal(found["max"], patches.amax(1))
    expected = patches.clamp_min(1e-6).double().pow(3).mean(1).pow(1 / 3)
    torch.testing.assert_close(found["gem"].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "student.", "teacher.", "module.backbone."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_weights_under_each_prefix(prefix, suffix, tmp_path):
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    path, named = tmp_path / f"w{suffix}", {f"{prefix}{name}": value for name, value in state.items()}
    named |= {"head.projection": torch.zeros(2)} if prefix else {}  # beside the network, as of DINO
    save_file(named, path) if suffix == ".safetensors" else torch.save(named, path)
    backbone = build_backbone(config("test_resnet", weights=str(path)))
    assert all(torch.equal(value, state[name]) for name, value in backbone.net.state_dict().items())
    assert (f"'{prefix}'" in backbone.origin) == bool(prefix)


def test_of_student_and_teacher_the_teacher_is_taken(tmp_path):
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    both = {f"teacher.{name}": value for name, value in state.items()}
    both |= {f"student.{name}": torch.zeros_like(value) for name, value in state.items()}
    save_file(both, tmp_path / "w.safetensors")
    backbone = build_backbone(config("test_resnet", weights=str(tmp_path / "w.safetensors")))
    assert torch.equal(backbone.net.conv1[0].weight, state["conv1.0.weight"])


def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch):
    state = timm.create_model("test_vit2", num_classes=0).state_dict()
    save_file(state, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-100])
    torch.save(state, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:-100])
    (tmp_path / "empty.bin").touch()
    for wrong, told in {
        ("timm/test_vitt", ""): "did you mean timm/test_vit",
        ("timm/test_vit.nothing", ""): "no weights 'nothing'",
        ("timm/test_vit", "imagenet"): "'pretrained'",
        ("small", "pretrained"): "timm/NAME",
        ("dinov2_vits14", ""): "timm/vit_small_patch14_dinov2",
        ("timm/test_vit", str(tmp_path / "other.safetensors")): "does not fit the backbone",
        **{
            ("timm/test_vit2", str(tmp_path / name)): "truncated or damaged, download or copy it again"
            for name in ("cut.safetensors", "cut.pth", "empty.bin")
        },
    }.items():
        with pytest.raises(UserError) as caught:
            build_backbone(ModelConfig(backbone=wrong[0], weights=wrong[1]))
        assert told in str(caught.value) and "\n" not in str(caught.value), caught.value
    with pytest.raises(UserError, match=r"views\.size 100: timm/test_vit does not support this size"):
        check_size(Encoder(config()), "timm/test_vit", 100)
    with pytest.raises(UserError, match=r"model.pooling cls: timm/test_resnet has no class token"):
        Encoder(config("test_resnet", pooling="cls"))
    found = importlib.util.find_spec
    monkeypatch.setattr("dist_plm.model.timm_backbone.find_spec", lambda name: None if name == "timm" else found(name))
    with pytest.raises(UserError, match=r"needs timm: pip install -e '\.\[timm\]'"):
        check_model(config())
    monkeypatch.setattr("dist_plm.model.adapters.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs peft: pip install -e '\.\[lora\]'"):
        check_adapters(config(lora=LoraConfig(rank=2)))


def test_without_a_network_it_is_said_at_once_which_file_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def offline(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(UserError, match=r"resolve/main/model\.safetensors elsewhere.*--model\.weights FILE") as caught:
        build_backbone(config(weights="pretrained"))
    assert "test_vit.r160_in1k" in str(caught.value) and "\n" not in str(caught.value)


def test_preprocessing_is_that_of_the_pretraining():
    views = own_views(config("tf_efficientnet_lite0"), ViewsConfig(), size=0, resize=0)
    assert (views.size, views.resize, views.interpolation) == (224, 256, "bicubic")
    assert own_views(config("test_resnet"), ViewsConfig(), size=80, resize=0).resize == 84  # 80 / .95
    assert own_views(config("test_resnet"), ViewsConfig(), size=80, resize=0).interpolation == "bilinear"
    assert [own_pooling(config(name)) for name in ("test_vit", "test_resnet", "test_vit3")] == ["cls", "avg", "cls"]


@pytest.mark.parametrize("treatment", ["frozen", "synchronised"])
def test_batch_norm_with_an_activation_is_treated_too(treatment):
    model = config("test_efficientnet", batch_norm=treatment)
    encoder = Encoder(model, all_reduce_sum=lambda value: value).train()
    expected = Encoder(config("test_efficientnet", batch_norm="per_rank"))
    expected.load_state_dict(encoder.state_dict())
    expected = expected.train() if treatment == "synchronised" else expected.eval()
    torch.testing.assert_close(encoder(IMAGES), expected(IMAGES), atol=1e-5, rtol=1e-4)
    moved = not torch.equal(
        encoder.backbone.net.bn1.running_mean, torch.zeros_like(encoder.backbone.net.bn1.running_mean)
    )
    assert moved == (treatment == "synchronised")


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "test_vit3"])
def test_a_cut_network_computes_what_the_whole_one_does(name):
    encoder = Encoder(config(name)).eval()
    frozen, trained = split(encoder, config(name, trainable="blocks:2"), 96).parts(encoder)
    with torch.no_grad():
        assert torch.equal(trained(frozen(IMAGES)), encoder(IMAGES))
    assert 0 < sum(p.numel() for p in trained.parameters()) < sum(p.numel() for p in encoder.parameters())
    with pytest.raises(UserError, match=r"blocks:99: .* can be split before at most its last \d+ blocks"):
        split(encoder, config(name, trainable="blocks:99"), 96)


def test_merged_adapters_compute_what_they_did_beside_the_weights():
    pytest.importorskip("peft")
    model = config(lora=LoraConfig(rank=2, targets=["qkv"]))
    encoder = Encoder(model).eval()
    plain = encoder(IMAGES)
    split(encoder, model, 96)
    assert torch.equal(encoder(IMAGES), plain), "B begins at 0"
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = encoder(IMAGES)
    assert not torch.allclose(adapted, plain, atol=1e-4)
    merged = merge_adapters(encoder)
    torch.testing.assert_close(merged(IMAGES), adapted, atol=1e-5, rtol=1e-4)
    assert merged.state_dict().keys() == Encoder(config()).state_dict().keys()
    with pytest.raises(UserError, match="only: fc1, fc2, proj, qkv"):
        split(Encoder(model), config(lora=LoraConfig(rank=2, targets=["query"])), 96)


def test_networks_of_ones_own(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--backbone tests\.networks:colours"):
        build_backbone(ModelConfig(backbone="tests.networks:colours"))
    for name in ("colours", "vit_16", "no_network", "broken", "pairs", "nothing"):
        allow(f"tests.networks:{name}")
    colours = Encoder(ModelConfig(backbone="tests.networks:colours", dim=2))
    torch.testing.assert_close(colours.pooled(IMAGES), IMAGES.float().mean((2, 3)) / 255)
    for name, told in {
        "no_network": "must return an nn.Module, not str",
        "broken": "the function failed (ValueError: no such size)",
        "pairs": "must return one tensor",
        "nothing": "has no function 'nothing'",
    }.items():
        with pytest.raises(UserError) as caught:
            Encoder(ModelConfig(backbone=f"tests.networks:{name}", dim=2))
        assert told in str(caught.value), caught.value
    assert Encoder(ModelConfig(dim=2), network=torch.nn.Conv2d(3, 5, 3)).pooled(IMAGES).shape == (2, 5)


def test_an_export_of_ones_own_network_imports_nothing_unasked(tmp_path, monkeypatch):
    name = "tests.networks:vit_16"
    allow(name)
    model = ModelConfig(backbone=name, dim=4, pooling="cls")
    embedder = untrained(model)
    export_to(tmp_path, embedder)
    found = read_export(tmp_path, torch.device("cpu"))
    assert torch.equal(found.embed(IMAGES[..., :16, :16]), embedder.embed(IMAGES[..., :16, :16]))
    monkeypatch.setattr("dist_plm.model.own_backbone._allowed", set())
    with pytest.raises(UserError, match=f"repeat the command with --backbone {name}"):
        read_export(tmp_path, torch.device("cpu"))


def test_settings_that_contradict_each_other():
    for model, views, told in (
        (ModelConfig(trainable="blocks"), ViewsConfig(), "must be all, head or blocks:N"),
        (ModelConfig(trainable="head", lora=LoraConfig(rank=2)), ViewsConfig(), "model.trainable head trains none"),
        (ModelConfig(), ViewsConfig(cached=2), "set --model.trainable head or blocks:N"),
        (ModelConfig(trainable="head"), ViewsConfig(cached=1, count=3), "raise --views.cached to 2"),
    ):
        case = Config(model=model, views=views)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_check_data", "_check_batch", "check_method"):
                patch.setattr(f"dist_plm.checks.settings.{name}", lambda *_: None)
            with pytest.raises(UserError, match=told.replace("(", r"\(")):
                check(case, 1)
