"""A tiny data set, runs on it, and what they left."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from benchmarks.common import build_demo, events, tensors, timeless
from dist_plm import train as training
from dist_plm.cli import run_command
from tests.commands import Outcome, on_ranks

STEPS_PER_EPOCH, STEPS = 5, 15  # 100 images in batches of 4 x 5; one epoch of warm-up, two of the method
__all__ = ["build_demo", "contents", "events", "refused", "tensors", "timeless", "train"]

Here = Callable[..., "Outcome"]

TINY = """
views: {size: 16, resize: 20, scale: [0.3, 1.0], flip: 0.0, brightness: 0.0}
model: {backbone: small, dim: 16, momentum: 0.9}
batch: {groups: 4, group_size: 5}
manifold: {n_alpha: 4.0}
proxies: {count: 7}
optimiser: {lr: 5.0e-4}
warm_up: {epochs: 1, lr: 2.0e-3}
train: {epochs: 2, evaluate_epochs: 10, log_steps: 1, report: false}
evaluation: {batch_size: 16, raw_pixels: false}
checkpoint: {every_steps: 4}
data: {workers: 1}
runtime: {threads: 1, device: cpu, timeout_seconds: 60}
"""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of these tests: 100 images to train, 100 to test."""
    return build_demo(tmp_path_factory.mktemp("data") / "demo")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A configuration of three epochs of five steps, on the data set `demo`."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY.replace("data: {", f"data: {{shards: {demo}, "))
    return path


def train(ranks: int, config: Path, run_dir: Path, *arguments: object) -> Outcome:
    """A training run to its end; the outcome of rank 0 is returned when the status of all is 0."""
    started = on_ranks(ranks, "dist_plm.train", "--config", config, "--run_dir", run_dir, *arguments)
    outcomes = [rank.wait() for rank in started]
    assert [outcome.status for outcome in outcomes] == ranks * [0], outcomes
    return outcomes[0]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """An unbroken run of `tiny` on two ranks; copy it before changing it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(2, tiny, run)
    return run


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The same on one rank in float64."""
    run = tmp_path_factory.mktemp("exact") / "run"
    train(1, tiny, run, "--train.precision", "fp64")
    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command's main in this interpreter: importing torch takes seconds, a mistake is told in milliseconds."""

    def run(command: Callable[[], int], *arguments: object, **environment: str) -> Outcome:
        capsys.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as leaving:
            patch.setattr(sys, "argv", ["command", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            run_command(command)
        if dist.is_initialized():  # a command that fails leaves the group to the end of its process
            dist.destroy_process_group()
        status = int(leaving.value.code or 0)
        del leaving
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; a folder is an empty one."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def refused(outcome: Outcome, named: str) -> None:
    """Assert that a mistake ended with status 2 and up to three lines that name it."""
    assert outcome.status == 2, outcome
    assert named in outcome.err, outcome.err
    assert 1 <= outcome.err.strip().count("\n") + 1 <= 3, outcome.err
    assert "Traceback" not in outcome.err and outcome.out == ""


@pytest.fixture
def mistaken(tmp_path, tiny, here, monkeypatch) -> Callable[..., None]:
    """Train with these arguments: refused, `named` is in the message, and no file came or went."""
    monkeypatch.chdir(tmp_path)

    def train(named: str, *arguments: Any, **environment: str) -> None:
        before = contents(tmp_path)
        refused(here(training.main, "--config", tiny, "--run_dir", "run", *arguments, **environment), named)
        assert contents(tmp_path) == before

    return train


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium that keeps the messages of the console and asks nobody on the network for anything."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with chromedriver on this machine: nothing is opened in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()
