"""Parts of a step: inner parts are taken out of outer ones, and the sum is the whole."""

import threading
import time

import pytest
import torch

from dist_plm.telemetry.parts import Stopwatch, part, watch
from dist_plm.telemetry.profile import ADVICE, table


@pytest.fixture
def stopwatch():
    watch(made := Stopwatch(torch.device("cpu")))
    yield made
    watch(None)


def test_inner_parts_are_taken_out(stopwatch, monkeypatch):
    now = iter([1.0, 2.0, 4.0, 7.0, 9.0, 10.0])  # losses: 1 .. 7, gather within: 2 .. 4
    monkeypatch.setattr(stopwatch, "now", lambda: next(now))
    with part("losses"), part("gather"):
        pass
    with part("student"):
        pass
    assert stopwatch.seconds == {"gather": 2.0, "losses": 6.0 - 2.0, "student": 1.0}


def test_other_threads_are_not_timed(stopwatch):
    def decode():
        with part("decode"):
            time.sleep(0.001)

    thread = threading.Thread(target=decode)
    thread.start()
    thread.join()
    assert not stopwatch.seconds


def test_the_table_names_the_bottleneck():
    drawn = table({"student": 0.3, "decode": 0.6, "gather": 0.1}, steps=10)
    assert list(drawn.columns[0].cells) == ["decode", "student", "gather"]
    assert list(drawn.columns[1].cells) == ["60.0", "30.0", "10.0"]
    assert drawn.caption == f"bottleneck: decode ({ADVICE['decode']})"
