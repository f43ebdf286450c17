"""Parts of a network that train on W ranks: the same as on one, and nothing else is kept, moved or sent.

The subject is a random transformer like DINOv2, with registers, in three sizes; in float64 an order of summation shows
at 1e-15.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import on_ranks
from dist_plm.config import (
    BatchConfig,
    Config,
    LoraConfig,
    ManifoldConfig,
    ModelConfig,
    OptimiserConfig,
    ProxiesConfig,
    RuntimeConfig,
    TrainConfig,
    ViewsConfig,
)
from dist_plm.distributed.world import World
from dist_plm.model.own_backbone import allow
from dist_plm.training.learner import Learner, phases
from tests.distributed.test_zero import batches, distance, tensors, zero

pytest.importorskip("timm")
pytest.importorskip("peft")
STEPS = 3
LORA = LoraConfig(rank=2, alpha=4.0)
PARTS = {
    "blocks:1": {"trainable": "blocks:1"},
    "head": {"trainable": "head", "pooling": "cls_avg"},
    "adapters": {"lora": LORA},
    "adapters of a block": {"trainable": "blocks:1", "lora": replace(LORA, targets=["qkv"]), "pooling": "gem"},
}


def config(backbone: str = "vit_24", precision: str = "fp64", **model: Any) -> Config:
    name = f"tests.networks:{backbone}"
    return Config(
        model=ModelConfig(**{"backbone": name, "dim": 8, "momentum": 0.9, "pooling": "cls", **model}),
        views=ViewsConfig(size=16, resize=16),
        batch=BatchConfig(groups=4, group_size=2),
        manifold=ManifoldConfig(k=5),
        proxies=ProxiesConfig(count=5),
        # Softmax does not see the bias of the keys, so its gradient is rounding noise, of which Adam would make steps.
        optimiser=OptimiserConfig(name="sgd", lr=1e-2, layer_decay=1.0 if model else 0.5),
        train=TrainConfig(precision=precision),  # type: ignore[arg-type]
    )


SIZES = {
    f"{name}, {part}": config(name, **PARTS[part]) for name in ("vit_16", "vit_32") for part in ("blocks:1", "adapters")
}


def learnt(world: World, cases: dict[str, Config]) -> dict[str, Any]:
    """Losses and all tensors after some steps of each case."""
    results = {}
    for name, case in cases.items():
        allow(case.model.backbone)
        learner = Learner(case, world, phases(case)[0])
        before = tensors(learner)
        losses = []
        for step, batch in enumerate(batches(world, STEPS)):
            losses.append(learner.describe(learner.step(batch, step, STEPS))["loss"])
        results[name] = {"losses": losses, "before": before, "after": tensors(learner), "gradients": graded(learner)}
        learner.strategy.release()
    return results


def graded(learner: Learner) -> list[str]:
    """Names of the weights that take part in the backward."""
    names = {id(value): name for name, value in learner.encoder.named_parameters()}
    moved = {id(each) for group in learner.strategy.updates.network.param_groups for each in group["params"]}
    wanted = {id(value) for value in learner.encoder.parameters() if value.requires_grad}
    assert learner.config.runtime.strategy == "deepspeed" or moved == wanted
    return sorted(names[each] for each in wanted)


def is_trained(name: str, case: str) -> bool:
    """Whether a weight of the backbone or the heads of `vit_24` trains, said independently of the code."""
    if not name.startswith("backbone."):
        return True
    last = ".blocks.2." in name
    return {
        "blocks:1": last or ".vit.norm." in name,
        "head": False,
        "adapters": "lora_" in name,
        "adapters of a block": last and "lora_" in name and "qkv" in name,
    }[case]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = {name: config(**part) for name, part in PARTS.items()}
    cases |= SIZES
    cases["all"] = config()
    return on_ranks(1, tmp_path_factory.mktemp("alone"), learnt, cases)[0]


def test_only_what_trains_has_gradients_state_and_a_copy(alone: dict[str, Any]) -> None:
    for case in PARTS:
        found = alone[case]
        weights = {name.removeprefix("student.") for name in found["after"] if name.startswith("student.")}
        trained = {name for name in weights if is_trained(name, case) and not name.endswith("num_batches_tracked")}
        assert set(found["gradients"]) == trained, case
        moments = {name.removeprefix("optimiser.student.").rpartition(".")[0] for name in found["after"]
                   if name.startswith("optimiser.student.")}  # fmt: skip
        assert moments == trained, case
        copies = {name.removeprefix("teacher.") for name in found["after"] if name.startswith("teacher.")}
        assert copies == trained, case
        for name in weights - trained:
            assert torch.equal(found["before"][f"student.{name}"], found["after"][f"student.{name}"]), (case, name)
        # B of an adapter begins at 0, so after one step A too has had a gradient.
        assert all(
            not torch.equal(found["before"][f"student.{name}"], found["after"][f"student.{name}"]) for name in trained
        ), case


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_compute_what_one_computes(size: int, alone: dict[str, Any], tmp_path: Path) -> None:
    cases = {name: config(**part) for name, part in PARTS.items()}
    cases |= SIZES
    cases["all"] = config()
    found = on_ranks(size, tmp_path, learnt, cases)[0]
    for name, expected in alone.items():
        same(found[name], expected, 1e-10)


def test_zero_and_reproducible_compute_what_data_parallelism_does(tmp_path: Path) -> None:
    parts = {name: config(precision="fp32", **PARTS[name]) for name in ("blocks:1", "adapters")}
    cases = dict(parts)
    for name, case in parts.items():
        cases |= {f"{name} zero {stage}": zero(case, stage) for stage in (2, 3)}
        cases[f"{name} reproducible"] = replace(case, runtime=RuntimeConfig(strategy="reproducible"))
    found = on_ranks(2, tmp_path, learnt, cases)[0]
    for name in cases:
        expected = found[next(part for part in parts if name.startswith(part))]
        assert found[name]["losses"] == pytest.approx(expected["losses"], rel=1e-4), name
        assert found[name]["gradients"] == expected["gradients"] or "zero 3" in name, name


def test_checkpointing_changes_nothing(tmp_path: Path) -> None:
    plain = config(trainable="blocks:2")
    found = on_ranks(1, tmp_path, learnt, {"plain": plain, "again": config(trainable="blocks:2", checkpointing=True)})
    same(found[0]["again"], found[0]["plain"], 0.0)


def same(found: dict[str, Any], expected: dict[str, Any], bound: float) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], rel=max(bound, 1e-15))
    assert found["gradients"] == expected["gradients"]
    after: dict[str, Tensor] = expected["after"]
    assert found["after"].keys() == after.keys()
    far = {name: distance(found["after"][name], value) for name, value in after.items()}
    assert max(far.values()) <= bound, sorted(far.items(), key=lambda entry: -entry[1])[:3]
