"""Training from nginx and from S3: the end is that of a local run, whatever the server does; or it says why."""

import json
import shutil
import time

import numpy as np
import pytest

from dist_plm import evaluate
from dist_plm import train as training
from dist_plm.config import DataConfig, ViewsConfig
from dist_plm.data.loader import Loader
from dist_plm.data.opening import open_split
from dist_plm.data.remote.spans import StoreFailure
from dist_plm.data.store import Store
from dist_plm.search_index import images as stored
from tests.commands import on_ranks
from tests.end_to_end.conftest import STEPS, events, refused
from tests.end_to_end.test_resume import assert_same_end, last_step
from tests.servers import damage, nginx, s3

SMALL = ("--data.cache_gb", 2e-5, "--data.prefetch", 1)  # a dozen images a rank: every epoch reads over the network


def test_killed_and_restarted_in_mid_epoch_while_requests_fail(tmp_path, demo, tiny, finished):
    """First for longer than the run waits: it ends with the cause. Then for less: the end is that of a local run."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    with nginx(tmp_path / "nginx", demo, failing=5) as server:
        common = ("--config", tiny, "--run_dir", run, "--data.shards", server.url, "--data.cache_dir", cache, *SMALL)
        ranks = on_ranks(2, "dist_plm.train", *common, "--data.retry_seconds", 5)
        ranks[0].until(lambda: last_step(run) >= 2)
        server.kill()
        ended = [rank.wait() for rank in ranks]
        assert [each.status for each in ended] == [1, 1], ended
        assert any(f"{server.url}/train-" in each.err and "could not be read for" in each.err for each in ended), ended

        server.start()
        ranks = on_ranks(2, "dist_plm.train", *common, "--data.retry_seconds", 50)
        ranks[0].until(lambda: last_step(run) >= 7)
        server.kill()
        time.sleep(1.5)
        assert last_step(run) < STEPS and ranks[0].status is None
        server.start()
        ended = [rank.wait() for rank in ranks]
        assert [each.status for each in ended] == [0, 0], ended
        assert server.answers(503) > 0 and server.answers(206) > 100
    assert_same_end(run, finished)


def test_a_damaged_shard_stops_the_run_before_it_is_trained_on(tmp_path, demo, tiny, here):
    folder, run, wrong = tmp_path / "damaged", tmp_path / "run", 63
    shutil.copytree(demo, folder)
    shard = damage(folder, wrong)
    with nginx(tmp_path / "nginx", folder) as server:
        outcome = here(training.main, "--config", tiny, "--run_dir", run, "--data.shards", server.url,
                       "--data.cache_dir", tmp_path / "cache", "--data.retry_seconds", 50)  # fmt: skip
    assert outcome.status == 1 and "the bytes are not those of the data set" in outcome.err, outcome.err
    assert shard in events(run, "failure")[-1]["message"]
    (plan,) = (np.load(path) for path in (run / "plans").glob("*.npy"))
    assert last_step(run) <= int(np.nonzero((plan == wrong).any(axis=(1, 2)))[0][0])


def test_batches_from_s3_are_the_local_ones_and_an_evaluation_too(tmp_path, demo, finished, here, monkeypatch):
    rows, views = np.random.default_rng(0).integers(0, 100, (4, 25)), ViewsConfig(size=16, resize=20)
    settings = {"views": views, "seed": 3, "epoch": 1, "workers": 2, "prefetch": 1}
    with s3(demo, "images", monkeypatch) as url:
        data = DataConfig(shards=url, cache_dir=str(tmp_path / "cache"))
        with Store(demo, "train") as local, open_split(data, "train") as store:
            for here_, there in zip(Loader(local, rows, **settings), Loader(store, rows, **settings), strict=True):
                assert (here_.views == there.views).all()
        run = tmp_path / "run"
        shutil.copytree(finished, run)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
        remote, locally = (
            here(evaluate.main, "--checkpoint", run, "--shards", place, "--split", "test") for place in (url, demo)
        )
        assert remote.status == 0, remote.err
        assert json.loads(remote.out.splitlines()[0]) == json.loads(locally.out.splitlines()[0])
        outcome = here(evaluate.main, "--checkpoint", run, "--shards", f"{url}/elsewhere", "--split", "test")
        refused(outcome, "manifest.json does not exist")


def test_a_server_that_is_not_there_is_a_mistake_of_one_line(tmp_path, tiny, here, monkeypatch):
    arguments = ("--config", tiny, "--run_dir", tmp_path / "run", "--data.retry_seconds", 0.1)
    outcome = here(training.main, *arguments, "--data.shards", "http://127.0.0.1:9", "--data.cache_dir", tmp_path)
    refused(outcome, "data.shards can't be read: http://127.0.0.1:9/manifest.json could not be read")
    assert not (tmp_path / "run").exists()


def test_pictures_of_an_index_do_not_wait_for_a_store_that_is_gone(tmp_path, demo, monkeypatch):
    """Each would hold a thread of the search page for data.retry_seconds, 120 s."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(stored, "SHOWN_SECONDS", 0.5)
    with nginx(tmp_path / "nginx", demo) as server:
        every = stored.ShardImages(server.url, ["test", "train"])
        images = stored.reopen(every.place(), [every.about(number) for number in (0, 150)])
        with Store(demo, "train") as local:
            assert images.read(1) == local.read(50)
    started = time.monotonic()
    with pytest.raises(StoreFailure, match="could not be read for"):
        images.read(0)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("setting", ["cache_gb", "retry_seconds"])
def test_bounds_are_above_nothing(tmp_path, tiny, here, setting):
    refused(here(training.main, "--config", tiny, "--run_dir", tmp_path / "run", f"--data.{setting}", 0), setting)


def test_no_rank_gives_up_before_the_store_is_given_up(tmp_path, tiny, here):
    line = ("--config", tiny, "--run_dir", tmp_path / "run", "--data.shards", "http://127.0.0.1:9")
    refused(here(training.main, *line, "--data.retry_seconds", 60), "data.retry_seconds 60.0 is not below")
