"""What `fit` chooses: valid for any number of images and any machine, and never in place of what was given."""

from dataclasses import replace
from pathlib import Path

import pytest

from dist_plm.checks import check_settings
from dist_plm.cli import load_config
from dist_plm.config import Config, ModelConfig
from dist_plm.errors import UserError
from dist_plm.fit.architecture import is_transformer
from dist_plm.fit.asked import Asked
from dist_plm.fit.choice import Choice, choose, network
from dist_plm.fit.collection import Collection
from dist_plm.fit.machine import Machine
from dist_plm.fit.weights import Start, network_of
from dist_plm.training.rehearsal import Rehearsal
from tests.commands import ROOT

FOLDER = load_config(ROOT / "configs/folder.yaml")
CPU = Machine(0, "", 2, 16.0, True)
GOOGLENET = Start("bvlc_googlenet", "weights.safetensors", "as given")
RANDOM = Start("small", "", "none found")


def measured(rate: float, view_gb: float = 0.02):
    """A rehearsal on a machine of so many forward passes a second; a step takes four for each of two views."""

    def measure(config: Config, ranks: int) -> Rehearsal:
        train = 1e4 if config.views.cached else rate / 8
        return Rehearsal(train, rate, 1e9, view_gb * 1e9, 1e9, 16, "cpu", bool(config.views.cached), loss=0.04)

    return measure


def chosen(
    images: int, rate: float, *, start=GOOGLENET, machine=CPU, classes=0, splits=(), view_gb=0.02, **given
) -> Choice:
    """The choice for so many images."""
    config = FOLDER
    for key, value in given.items():
        section, name = key.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    asked = Asked(config, frozenset(key.replace("__", ".") for key in given), 0, 10.0)
    collection = Collection("photos", {"train": images, **dict.fromkeys(splits, 100)}, classes, 256, 0, 0)
    return choose(asked, network(asked, start, collection), start, collection, machine, measured(rate, view_gb))


@pytest.mark.parametrize("start", [GOOGLENET, RANDOM], ids=["weights", "random"])
@pytest.mark.parametrize("images", [16, 50, 300, 1_000, 1_000_000])
@pytest.mark.parametrize("rate", [1.0, 150.0, 10_000.0])
def test_any_choice_is_valid(images, rate, start):
    found = chosen(images, rate, start=start)
    check_settings(found.config, found.ranks)
    assert found.config.batch.images <= images
    assert found.config.model.head_start == "orthogonal" or found.config.model.dim * 4 <= images
    assert found.config.views.cached == 0 or found.config.model.trainable == "head"
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_a_machine_that_is_fast_enough_trains_the_backbone():
    slow, fast = chosen(1_000, 20), chosen(1_000, 2_000)
    assert (slow.config.model.trainable, slow.config.views.cached, slow.ranks) == ("head", 4, 1)
    assert (fast.config.model.trainable, fast.config.views.cached, fast.ranks) == ("all", 0, 2)
    assert fast.config.optimiser.backbone_lr_scale == 1
    assert chosen(1_000, 2_000, optimiser__backbone_lr_scale=0.3).config.optimiser.backbone_lr_scale == 0.3
    assert sum(fast.seconds.values()) < 600
    gpus = chosen(100_000, 20_000, machine=Machine(4, "GPU", 64, 200.0, True))
    assert gpus.ranks == 4 and gpus.config.model.trainable == "all"


@pytest.mark.parametrize(
    ("backbone", "transformer"),
    [
        ("timm/vit_small_patch14_dinov2", True),
        ("timm/vit_small_patch16_dinov3", True),
        ("timm/swin_tiny_patch4_window7_224", True),
        ("timm/hiera_tiny_224", True),
        ("timm/resnet50_clip", False),  # attention pools
        ("timm/convnextv2_tiny", False),
        ("timm/tf_efficientnet_lite0", False),
        ("swin_t", True),
        ("vit_b_16", True),
        ("resnet50", False),
        ("bvlc_googlenet", False),
    ],
)
def test_transformers_are_known_by_their_attention(backbone, transformer):
    pytest.importorskip("timm")
    assert is_transformer(ModelConfig(backbone=backbone)) == transformer


@pytest.mark.parametrize(
    ("backbone", "pooling", "trainable"),
    [("swin_t", "avg", "blocks:2"), ("vit_b_16", "gem", "blocks:2"), ("resnet18", "gem", "all")],
)
def test_the_pooling_does_not_decide_what_is_trained(backbone, pooling, trainable):
    pytest.importorskip("timm")
    config = chosen(1_000, 2_000, start=Start(backbone, "file.pth", ""), model__pooling=pooling).config
    assert config.model.trainable == trainable
    assert config.optimiser.backbone_lr_scale == (1 if trainable == "all" else 0.2)


def test_a_transformer_that_cannot_be_split_trains_its_head():
    def refusing(config: Config, ranks: int) -> Rehearsal:
        if config.model.trainable != "head":
            raise UserError("can be split before at most its last 0 blocks")
        return measured(2_000)(config, ranks)

    start, collection = Start("vit_b_16", "imagenet", ""), Collection("photos", {"train": 1_000}, 0, 256, 0, 0)
    asked = Asked(FOLDER, frozenset(), 0, 10.0)
    found = choose(asked, network(asked, start, collection), start, collection, CPU, refusing)
    assert found.config.model.trainable == "head" and "can't be trained apart" in found.rows[3][2]


def test_memory_bounds_the_ranks_and_then_the_pieces_of_a_batch():
    """6.4 of 8 GB are planned, at most half for what ranks hold whatever their share, 1 GB each; then 1.1 GB of a rank
    are left for 64 views."""
    machine = replace(CPU, cores=4, memory_gb=8.0)
    for view_gb, pieces in ((0.01, 1), (0.04, 3), (0.1, 6)):
        found = chosen(1_000, 2_000, machine=machine, view_gb=view_gb)
        assert (found.ranks, found.config.batch.micro_batches) == (3, pieces)


def test_what_was_given_stays():
    given = {"model__dim": 40, "train__epochs": 3, "views__size": 112, "model__trainable": "head", "batch__groups": 20}
    config = chosen(1_000, 2_000, **given).config
    assert (config.model.dim, config.train.epochs, config.views.size, config.batch.groups) == (40, 3, 112, 20)
    assert config.model.trainable == "head" and config.views.cached == 4
    why = {name: reason for name, _, reason in chosen(1_000, 2_000, **given).rows}
    assert [why[name] for name in ("views", "embedding", "trained", "batch")] == ["as given"] * 4


@pytest.mark.parametrize(("start", "resize"), [(GOOGLENET, {112: 128, 320: 366}), (RANDOM, {96: 108, 32: 36})])
def test_a_given_size_of_the_views_keeps_the_margin_of_the_crop(start, resize):
    for size, wanted in resize.items():
        views = chosen(1_000, 2_000, start=start, views__size=size).config.views
        assert (views.size, views.resize) == (size, wanted)
    assert chosen(1_000, 2_000, start=start, views__size=32, views__resize=40).config.views.resize == 40


def test_the_last_blocks_of_transformers_are_trained_and_all_layers_of_others():
    for backbone, trainable in {
        "timm/swin_tiny_patch4_window7_224": "blocks:2",
        "timm/resnet50_clip.openai": "all",
    }.items():
        config = chosen(1_000, 2_000, start=Start(backbone, "pretrained", "as given")).config
        assert config.model.trainable == trainable
        assert config.optimiser.backbone_lr_scale == (1.0 if trainable == "all" else 0.2)


def test_a_training_that_does_not_fit_into_the_time_says_so():
    why = {name: reason for name, _, reason in chosen(100_000, 20).rows}
    assert why["batch"].startswith("the least that is worth it")
    assert "too slow" in why["trained"]


def test_a_training_that_the_time_does_not_limit_says_so():
    def length(rate: float) -> tuple[int, str]:
        found = chosen(1_000, rate)
        return found.config.train.epochs, {name: reason for name, _, reason in found.rows}["batch"]

    for rate in (2_000, 20_000):
        epochs, why = length(rate)
        assert epochs == 16 and "160 steps or 50 epochs" in why and "--train.epochs N" in why
    epochs, why = length(100)
    assert epochs < 16 and why.startswith("as --minutes 10 allows")


def test_labels_judge():
    assert chosen(300, 100.0).config.data.test_split == ""
    assert chosen(300, 100.0, classes=10).config.data.test_split == "train"
    assert chosen(300, 100.0, classes=10, splits=("test",)).config.data.test_split == "test"
    both = chosen(300, 100.0, classes=10, splits=("query", "gallery")).config.data
    assert (both.test_split, both.gallery_split) == ("query", "gallery")
    rows = {name: what for name, what, _ in chosen(300, 100.0, splits=("valid",), data__test_split="valid").rows}
    assert rows["judged by"].startswith("recall on the images of valid/")


@pytest.mark.parametrize(
    ("images", "start", "wide"),
    [(5_000, GOOGLENET, 1024), (5_000, Start("resnet18", "imagenet", ""), 512), (300, GOOGLENET, 256)],
)
def test_a_method_with_a_second_head_gets_one(images, start, wide):
    assert chosen(images, 2_000, start=start, train__method="stml").config.model.wide_dim == wide
    given = chosen(images, 2_000, start=start, train__method="stml", model__wide_dim=100)
    assert given.config.model.wide_dim == 100
    assert chosen(images, 2_000, start=start).config.model.wide_dim == 0


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="at least 16"):
        chosen(15, 100.0)


@pytest.mark.parametrize(
    "file, name",
    [
        ("bvlc_googlenet_fp16.safetensors", "bvlc_googlenet"),
        ("resnet50-11ad3fa6.pth", "resnet50"),
        ("tf_efficientnet_lite0_fp16.safetensors", "timm/tf_efficientnet_lite0"),
        ("vit_small_patch14_dinov2.safetensors", "timm/vit_small_patch14_dinov2"),
    ],
)
def test_a_file_of_weights_tells_its_network(file, name):
    pytest.importorskip("timm")
    assert network_of(Path(file)) == name


def test_a_file_of_weights_that_does_not_tell():
    with pytest.raises(UserError, match=r"--model\.backbone"):
        network_of(Path("weights.pth"))
