"""A real Slurm of four virtual nodes (4 cores, 2 pretended GPUs each) on this machine, for as long as the tests run."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import STEPS_PER_EPOCH, TINY, build_demo, events, train

SCRIPT = Path(__file__).with_name("cluster.sh")
PATIENCE_SECONDS = 240
EPOCHS = 6
STEPS = (1 + EPOCHS) * STEPS_PER_EPOCH
ASKED = ("--nodes", "2", "--time", "30")  # a rank on each
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "unshare")


class Slurm:
    """The cluster. Its clients find it by SLURM_CONF, which stands in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def control(self, what: str) -> None:
        """`cluster.sh start` or `stop`; start also brings a killed node back."""
        subprocess.run(["bash", SCRIPT, what], check=True, timeout=PATIENCE_SECONDS)

    def ask(self, *words: object) -> str:
        """What a command of Slurm prints; empty where it fails."""
        answer = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    def tell(self, *words: object) -> str:
        """The same; it must not fail."""
        answer = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def state(self, job: str) -> str:
        return self.ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").partition(" ")[0]

    def until(self, happened: Callable[[], object], run: Path | None = None) -> None:
        """Wait for something; past PATIENCE_SECONDS the test fails with the logs of the run."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            if time.monotonic() > deadline:
                pytest.fail(f"it never happened\n{self.ask('squeue')}\n{logs(run) if run else ''}")
            time.sleep(0.05)

    def until_left(self, job: str, run: Path, state: str = "COMPLETED") -> None:
        """Wait until the job, or all elements of an array, left the queue in this state."""
        self.until(lambda: not self.ask("squeue", "-h", "-j", job), run)
        with suppress(pytest.fail.Exception):
            self.until(lambda: {*self.ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").split()} == {state})
        states = self.ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State")
        assert {*states.split()} == {state}, f"{states}\n{logs(run)}"

    def kill_node(self, name: str) -> None:
        """All processes that live on a node, at once, as when its power fails: they share slurmd's mount namespace."""
        daemon = int((self.folder / "run" / f"slurmd-{name}.pid").read_text())
        namespace = os.readlink(f"/proc/{daemon}/ns/mnt")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(process / "ns/mnt") == namespace:
                    os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    """The cluster, with nothing in its queue before and after."""
    yield cluster
    if jobs := cluster.ask("squeue", "-h", "-o", "%A").split():
        cluster.ask("scancel", *jobs)
        cluster.until(lambda: not cluster.ask("squeue", "-h"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """Started once; skips where it can't be had."""
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)} here: as root on Debian, `tests/slurm/cluster.sh install` installs Slurm")
    if os.getuid():
        pytest.skip("virtual nodes need root")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="slurm_") as name:
        folder = Path(name)
        folder.chmod(0o755)  # munged insists on a socket that all can reach; pytest's own folders are closed
        patch.setenv("SLURM_TEST_DIR", str(folder))
        patch.setenv("SLURM_TEST_PORT", str(7000 + 20 * (os.getpid() % 600)))  # below the ports that jobs draw from
        patch.setenv("SLURM_CONF", str(folder / "etc" / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        found = Slurm(folder)
        try:
            found.control("start")
            yield found
        finally:
            found.control("stop")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven epochs of seven steps."""
    folder = tmp_path_factory.mktemp("cluster_config")
    data = build_demo(folder / "demo")
    text = TINY.replace("data: {", f"data: {{shards: {data}, ").replace("epochs: 2", f"epochs: {EPOCHS}")
    text = text.replace("evaluation: {", "evaluation: {nmi: false, ").replace(
        "timeout_seconds: 60", "timeout_seconds: 120"
    )
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """The run on two ranks under torchrun."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(2, config, run)
    return run


def job_of(run: Path) -> str:
    return str(json.loads((run / "launch" / "job.json").read_text())["job"])


def last_step(run: Path) -> int:
    return max((event["step"] for event in events(run, "step")), default=0)


def requeues(run: Path) -> list[dict[str, Any]]:
    return events(run, "requeued")


def logs(run: Path) -> str:
    found = sorted((run / "launch").glob("*_log.*"))
    return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in found)
