"""One run that changes strategy and number of ranks at every stop ends where an unbroken one ends.

In float32 with SGD, whose rounding stays rounding (`test_ranks.py` says why). The first stop is in the warm-up, so that
ZeRO-2 carries the student over to the next phase, and ZeRO-3 sweeps with a partitioned momentum encoder.
"""

from pathlib import Path

import torch

from tests.end_to_end.conftest import STEPS, events, tensors, train
from tests.end_to_end.test_ranks import distance, losses, plans

ARGUMENTS = ("--optimiser.name", "sgd", "--checkpoint.every_steps", STEPS, "--runtime.timeout_seconds", 300)
ZERO = ("--runtime.strategy", "deepspeed", "--runtime.zero.stage")
STRETCHES = ((2, 4, ()), (4, 10, (*ZERO, 2)), (2, 16, (*ZERO, 3)), (1, 0, ()))  # ranks, last step, strategy


def test_ddp_zero_2_zero_3_ddp(tmp_path: Path, tiny: Path) -> None:
    unbroken, chain = tmp_path / "unbroken", tmp_path / "chain"
    train(2, tiny, unbroken, *ARGUMENTS)
    for ranks, last, strategy in STRETCHES:
        outcome = train(ranks, tiny, chain, *ARGUMENTS, "--train.max_steps", last, *strategy)
        assert not any(word in (outcome.out + outcome.err).lower() for word in ("deepspeed]", "futurewarning"))

    assert [event["world_size"] for event in events(chain, "resumed")] == [4, 2, 1]
    assert plans(chain) == plans(unbroken) and len(losses(chain)) == STEPS
    expected, found = tensors(unbroken), tensors(chain)
    assert found.keys() == expected.keys() and any(name.startswith("optimiser.") for name in found)
    for part in ("student", "teacher", "method", "optimiser"):
        names = [name for name in expected if name.startswith(f"{part}.")]
        whole = [torch.cat([each[name].flatten() for name in names]) for each in (expected, found)]
        assert distance(*whole) < 1e-5, (part, distance(*whole))
    recalls = [[(e["model"], e["recall"]) for e in events(run, "eval")][-2:] for run in (unbroken, chain)]
    assert recalls[0] == recalls[1]
