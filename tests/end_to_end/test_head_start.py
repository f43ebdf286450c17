"""A head that starts at the data's own directions: the same on any ranks; a run that goes on does not start anew."""

from pathlib import Path

import pytest
import torch

from tests.end_to_end.conftest import events, tensors, train

SHORT = ("--warm_up.epochs", 0, "--evaluation.nmi", False, "--train.max_steps")


def test_begins_whitened_on_any_ranks_and_goes_on(tmp_path: Path, tiny: Path) -> None:
    alone, two = tmp_path / "alone", tmp_path / "two"
    for ranks, run in ((1, alone), (2, two)):
        train(ranks, tiny, run, "--model.head_start", "whitened", *SHORT, 2)
    starts = [[each["recall"] for each in events(run, "eval") if each["step"] == 0] for run in (alone, two)]
    assert starts[0] == starts[1] and len(starts[0]) == 2 and starts[0][0] == starts[0][1]
    for name, value in tensors(alone).items():
        if name.startswith("student.head"):
            torch.testing.assert_close(value, tensors(two)[name], rtol=1e-3, atol=1e-4)

    before = tensors(two)["student.head.weight"]
    train(2, tiny, two, "--model.head_start", "whitened", "--optimiser.lr", 1e-12, *SHORT, 4, "--force_resume")
    assert [each["step"] for each in events(two, "resumed")] == [2]
    torch.testing.assert_close(tensors(two)["student.head.weight"], before, rtol=0, atol=1e-4)


def test_differs_from_an_orthogonal_start(tmp_path: Path, tiny: Path) -> None:
    train(1, tiny, tmp_path / "run", *SHORT, 1)
    train(1, tiny, tmp_path / "pca", "--model.head_start", "pca", *SHORT, 1)
    plain, fitted = (tensors(tmp_path / name)["student.head.weight"] for name in ("run", "pca"))
    assert (plain - fitted).norm() > 0.1 * plain.norm()
    # One step of Adam at 5e-4 leaves rows that are as orthogonal as they were.
    identity = fitted @ fitted.T
    assert identity == pytest.approx(torch.eye(len(fitted)).numpy(), abs=0.05)
