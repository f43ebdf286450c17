"""The second stream: what waits for what. CUDA's streams are played by records of the calls."""

from contextlib import contextmanager

import pytest
import torch

from dist_plm.config import BatchConfig, Config, ModelConfig, ProxiesConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.parallel.side_stream import SideStream
from dist_plm.training.learner import Learner, phases


class Streams:
    """The main and a second stream; `calls` holds who waited for whom, and what was queued on which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.current = "main"
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("beside", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(self.current, self))
        monkeypatch.setattr(torch.cuda, "stream", self.on)

    @contextmanager
    def on(self, stream: "Stream"):
        before, self.current = self.current, stream.name
        yield
        self.current = before


class Stream:
    device = torch.device("cuda")

    def __init__(self, name: str, streams: Streams) -> None:
        self.name, self.streams = name, streams

    def wait_stream(self, other: "Stream") -> None:
        self.streams.calls.append(f"{self.name} waits for {other.name}")


def test_a_step_queues_the_momentum_encoder_beside_the_student(monkeypatch):
    config = Config(
        model=ModelConfig(backbone="small", dim=16),
        batch=BatchConfig(groups=4, group_size=5),
        proxies=ProxiesConfig(count=7),
    )
    learner, streams = Learner(config, World(), phases(config)[-1]), Streams(monkeypatch)
    learner.side_stream = SideStream(torch.device("cuda"))
    calls = streams.calls

    def watched(place: object, name: str) -> None:
        act = getattr(place, name)

        def noted(*arguments, **options):
            calls.append(f"{name} on {streams.current}")
            return act(*arguments, **options)

        monkeypatch.setattr(place, name, noted)

    watched(learner.strategy, "embed")
    watched(learner.strategy, "embed_constant")
    watched(learner.method, "prepare")
    watched(learner.method, "forward")
    watched(learner.strategy, "step")
    views = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    learner.step(Batch(0, torch.arange(20), views), 0, 10)
    assert calls == [
        "beside waits for main",  # for the views, and for what the last step made of the momentum encoder
        "embed on main",
        "embed_constant on beside",
        "prepare on beside",
        "main waits for beside",
        "forward on main",
        "step on main",
        "beside waits for main",  # before memory of this step may be taken again there
    ]


def test_a_cpu_has_none():
    stream = SideStream(torch.device("cpu"))
    stream.follow()
    with stream.work():
        pass
    stream.join()
