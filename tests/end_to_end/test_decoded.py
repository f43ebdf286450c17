"""A run on decoded images may be stopped, and its cache lost: the end is that of a run that nothing stopped."""

import shutil
import signal

import torch

from dist_plm import train as training
from dist_plm.distributed.preemption import PREEMPTED
from tests.commands import on_ranks
from tests.end_to_end.conftest import refused, tensors, train
from tests.end_to_end.test_resume import assert_same_end, last_step


def test_resumed_from_decoded_images_that_were_lost(tmp_path, tiny):
    run, whole, cache = tmp_path / "run", tmp_path / "whole", tmp_path / "cache"
    options = ("--data.cache_dir", cache, "--data.decoded_side", 24)
    train(1, tiny, whole, *options)
    ranks = on_ranks(1, "dist_plm.train", "--config", tiny, "--run_dir", run, *options)
    ranks[0].until(lambda: last_step(run) >= 5)
    ranks[0].send(signal.SIGTERM)
    assert [rank.wait().status for rank in ranks] == [PREEMPTED]
    shutil.rmtree(cache)
    train(1, tiny, run, *options)
    assert_same_end(run, whole)


def test_another_side_is_another_experiment(tmp_path, tiny, here):
    run, cache = tmp_path / "run", ("--data.cache_dir", tmp_path / "cache")
    train(1, tiny, run, *cache, "--data.decoded_side", 24, "--train.max_steps", 1)
    train(1, tiny, tmp_path / "plain", "--train.max_steps", 1)
    mine, plain = tensors(run), tensors(tmp_path / "plain")
    assert any(not torch.equal(mine[name], plain[name]) for name in plain if name.startswith("student"))
    refused(
        here(training.main, "--config", tiny, "--run_dir", run, *cache, "--data.decoded_side", 0),
        "decoded_side: 24 there, 0 here",
    )
    smaller = here(training.main, "--config", tiny, "--run_dir", tmp_path / "new", "--data.decoded_side", 19)
    refused(smaller, "data.decoded_side 19 is smaller than views.resize 20")
