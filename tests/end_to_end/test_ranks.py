"""One configuration on 1, 3 and 8 ranks is one experiment: the same plans, losses and weights, up to rounding.

How far rounding reaches, measured over 21 steps. In float64: 6e-15 (SGD) and 3e-13 (Adam) of the norm of any tensor. In
float32: 2e-6 for as long as every activation falls on the same side of its ReLU. When one does not, its share of one
channel's gradient comes or goes, which is 1e-4 of a bias, that began at 0, and still less than 1e-5 of a weight. Adam's
first step is lr sign(g): where g is rounding noise a weight lands 2 lr away. So Adam in float32 needs the strategy that
doesn't let rounding in.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.end_to_end.conftest import STEPS, events, tensors, train

RANKS = (1, 3, 8)  # of 20 images: 7 7 6, and 3 3 3 3 2 2 2 2


def runs(folder: Path, config: Path, *arguments: object) -> list[Path]:
    paths = [folder / f"ranks_{ranks}" for ranks in RANKS]
    for ranks, path in zip(RANKS, paths, strict=True):
        train(ranks, config, path, "--checkpoint.every_steps", STEPS, "--evaluation.nmi", False, *arguments)
    return paths


def plans(run: Path) -> list[str]:
    return [event["sha256"] for event in events(run, "plan")]


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in events(run, "step")]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().norm() / a.double().norm())


def learned(run: Path) -> dict[str, Tensor]:
    """Student, teacher and proxies."""
    return {name: value for name, value in tensors(run).items() if not name.startswith("optimiser.")}


def assert_alike(alone: Path, others: list[Path], *, loss_bound: float, bound: float) -> None:
    """Plans are the same; losses and tensors differ by at most these relative distances."""
    expected = learned(alone)
    for other in others:
        assert plans(other) == plans(alone)
        assert losses(other) == pytest.approx(losses(alone), rel=loss_bound)
        found = learned(other)
        assert found.keys() == expected.keys()
        far = {name: distance(expected[name], found[name]) for name in expected}
        assert max(far.values()) < bound, sorted(far.items(), key=lambda entry: -entry[1])[:3]


@pytest.mark.parametrize(("optimiser", "bound"), [("sgd", 1e-13), ("adam", 1e-11)])
def test_float64_is_the_same_to_rounding(tmp_path, tiny, optimiser, bound):
    alone, *others = runs(tmp_path, tiny, "--train.precision", "fp64", "--optimiser.name", optimiser)
    expected = learned(alone)
    assert len(plans(alone)) == 3 and len(losses(alone)) == STEPS
    assert {name.partition(".")[0] for name in expected} == {"student", "teacher", "method"}
    assert_alike(alone, others, loss_bound=1e-12, bound=bound)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_reproducible_is_the_same_in_float32(tmp_path, tiny, optimiser):
    arguments = ("--runtime.strategy", "reproducible", "--optimiser.name", optimiser)
    alone, *others = runs(tmp_path, tiny, *arguments)
    expected = learned(alone)
    assert expected["student.head.weight"].dtype == torch.float32 and len(losses(alone)) == STEPS
    assert_alike(alone, others, loss_bound=1e-9, bound=1e-5)
