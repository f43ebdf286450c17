"""The same numbers in metrics.jsonl, in TensorBoard and in Weights & Biases."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from dist_plm.distributed.world import World
from dist_plm.telemetry.metrics import Metrics, scalars
from dist_plm.telemetry.progress import Clock, Display, Horizon, columns, duration, peak_memory

EVENTS = (
    ("step", {"step": 3, "epoch": 0, "phase": "plm", "loss": 0.5, "lr": 1e-4}),
    ("eval", {"step": 3, "epoch": 0, "model": "student", "recall": {"1": 0.25, "2": 0.5}, "nmi": None}),
    ("resumed", {"world_size": 2}),
)
NUMBERS = {("step/loss", 3): 0.5, ("step/lr", 3): 1e-4, ("eval/student/recall@1", 3): 0.25,
           ("eval/student/recall@2", 3): 0.5}  # fmt: skip


class FakeWandb:
    """Keeps what it is given."""

    Error = RuntimeError

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.logged, self.finished = refuses, {}, False

    def init(self, **options):
        if self.refuses:
            raise RuntimeError("no API key\nconfigured")
        self.options = options
        return SimpleNamespace(define_metric=lambda *_, **__: None, log=self._log, finish=self._finish)

    def _log(self, values):
        step = values.pop("step")
        self.logged |= {(name, step): value for name, value in values.items()}

    def _finish(self):
        self.finished = True


def test_the_same_numbers_everywhere(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    metrics = Metrics(tmp_path, World())
    assert metrics.add_wandb("birds") == ""
    for event, values in EVENTS:
        metrics.write(event, **values)
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"event": event, **values} for event, values in EVENTS]
    assert fake.logged == NUMBERS and fake.finished and fake.options["project"] == "birds"
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    drawn = {(tag, each.step): each.value for tag in board.Tags()["scalars"] for each in board.Scalars(tag)}
    assert drawn.keys() == NUMBERS.keys()
    assert all(drawn[key] == pytest.approx(NUMBERS[key]) for key in drawn)


def test_training_goes_on_without_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses=True))
    metrics = Metrics(tmp_path, World())
    assert "no API key configured" in metrics.add_wandb("birds")
    metrics.write("step", step=1, loss=1.0)
    metrics.close()


def test_scalars():
    assert dict(scalars({"step": 1, "epoch": 2, "a": 3, "b": "text", "c": {"d": 4.0, "e": None}})) == {
        "a": 3,
        "c@d": 4.0,
    }


def test_the_display_says_rate_note_and_memory_line_by_line(capsys, monkeypatch):
    monkeypatch.setattr("dist_plm.telemetry.progress.LINE_SECONDS", 0)
    display = Display(World())
    with display.phase("sweep train", 10, "images") as phase:
        phase.advance(5, note="loss 0.5")
    display.close()
    said = capsys.readouterr().err
    assert (
        said.startswith("sweep train  5/10  ")
        and "images/s  loss 0.5  " in said
        and " GB" in said
        and " s left" in said
    )
    with Display(World(rank=1, size=2)).phase("sweep", 1, "images") as phase:
        phase.advance()
    assert capsys.readouterr().err == "", "only the first rank speaks"


def test_a_lap_counts_images_waiting_and_memory():
    waited = [0.0]
    clock = Clock(lambda: waited[0], torch.device("cpu"))
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(50_000_000 // 4)
    clock.steps, waited[0] = 2, 1e9
    lap = clock.lap(10)
    assert lap["images_per_second"] > 0 and lap["wait_share"] > 1
    assert lap["memory_gb"] >= before > 0.05 and held.sum() > 0


@pytest.mark.parametrize("width", [80, 120])
def test_step_and_end_of_the_run_stay_whole_where_the_terminal_is_narrow(width):
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    bars = Progress(*columns(), console=console)
    note = "1,204 images/s  loss 0.0371  point 0.0137  proxy 0.0027  neighbourhood 0.0146  waiting 15 %  11.1 GB"
    bars.add_task("warm_up epoch 103/200", total=11600, completed=8911, note=note, left="run ends in 23 h 20 min")
    console.print(bars.get_renderable())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1 and len(lines[0]) <= width
    assert "8911/11600 run ends in 23 h 20 min" in lines[0]


def test_the_end_of_a_run_follows_from_its_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dist_plm.telemetry.progress.time.monotonic", lambda: now[0])
    horizon = Horizon(40, 100)
    assert horizon.left(40) is None
    now[0] = 130.0
    assert horizon.left(50) == pytest.approx(150)  # 10 steps in 30 s, 50 are left
    assert [duration(s) for s in (0, 59.4, 61, 3_600, 90_061)] == ["0 s", "59 s", "1 min 01 s", "1 h 00 min", "1 d 1 h"]
