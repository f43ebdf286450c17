"""A run under ZeRO, and one that changes strategy and number of ranks at every stop, end where one under DDP ends.

In float32 with SGD, whose rounding stays rounding (`test_ranks.py` says why). The first stop is in the warm-up, so that
ZeRO-2 carries the student over to the next phase, and ZeRO-3 sweeps with a partitioned momentum encoder.
"""

from pathlib import Path

import pytest
import torch

from tests.end_to_end.conftest import STEPS, STEPS_PER_EPOCH, events, tensors, train
from tests.end_to_end.test_ranks import distance, losses, plans

ARGUMENTS = ("--optimiser.name", "sgd", "--checkpoint.every_steps", STEPS, "--runtime.timeout_seconds", 300,
             "--evaluation.nmi", False)  # fmt: skip
ZERO = ("--runtime.strategy", "deepspeed", "--runtime.zero.stage")
FEW = ("--train.max_steps", STEPS_PER_EPOCH + 3)  # of both phases, before rounding has grown
STRETCHES = ((2, 4, ()), (4, 8, (*ZERO, 2)), (2, 12, (*ZERO, 3)), (1, 0, ()))  # ranks, last step, strategy


@pytest.fixture(scope="module")
def few_under_ddp(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The first steps on two ranks."""
    run = tmp_path_factory.mktemp("under_ddp") / "run"
    train(2, tiny, run, *ARGUMENTS, *FEW)
    return run


def test_ddp_zero_2_zero_3_ddp(tmp_path: Path, tiny: Path) -> None:
    unbroken, chain = tmp_path / "unbroken", tmp_path / "chain"
    train(2, tiny, unbroken, *ARGUMENTS)
    for ranks, last, strategy in STRETCHES:
        outcome = train(ranks, tiny, chain, *ARGUMENTS, "--train.max_steps", last, *strategy)
        assert not any(word in (outcome.out + outcome.err).lower() for word in ("deepspeed]", "futurewarning"))

    assert [event["world_size"] for event in events(chain, "resumed")] == [4, 2, 1]
    assert plans(chain) == plans(unbroken) and len(losses(chain)) == STEPS
    assert_same_end(chain, unbroken)


@pytest.mark.parametrize(("stage", "ranks"), [(1, 2), (1, 4), (2, 2), (2, 4), (3, 2), (3, 4)])
def test_a_stage_ends_where_ddp_does(tmp_path: Path, tiny: Path, few_under_ddp: Path, stage: int, ranks: int) -> None:
    run = tmp_path / "run"
    train(ranks, tiny, run, *ARGUMENTS, *FEW, *ZERO, stage)
    assert_same_end(run, few_under_ddp)


def assert_same_end(run: Path, expected: Path) -> None:
    """Every part of the last checkpoint to 1e-5 as a vector, and the same answer to every query."""
    found, wanted = tensors(run), tensors(expected)
    assert found.keys() == wanted.keys() and any(name.startswith("optimiser.") for name in found)
    for part in ("student", "teacher", "method", "optimiser"):
        names = [name for name in wanted if name.startswith(f"{part}.")]
        whole = [torch.cat([each[name].flatten() for name in names]) for each in (wanted, found)]
        assert distance(*whole) < 1e-5, (part, distance(*whole))
    recalls = [[(e["model"], e["recall"]) for e in events(each, "eval")][-2:] for each in (run, expected)]
    assert recalls[0] == recalls[1]
