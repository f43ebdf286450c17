"""benchmarks/gpu.sh with an interpreter that only notes what it is asked for: commands, how it ends and resumes."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_checks, gpu_results, gpu_steps
from benchmarks.common import ROOT
from benchmarks.gpu_steps import STEP, Seen
from dist_plm import train
from dist_plm.bench import __main__ as bench
from dist_plm.datasets import build

STUB = """#!/usr/bin/env bash
case "$*" in
  -c*) exit 0 ;;
  *benchmarks.gpu_common) echo "a warning"; echo "Card_A $GPUS 1 $PACKAGES"; exit ;;
  *benchmarks.gpu_results*) exit ;;
esac
printf '%s\\n' "$@" > "$COMMANDS/$(ls "$COMMANDS" | wc -l)"
case "$*" in
  *"$FAILING"*) echo "boom" >&2; exit 1 ;;
  *"$HANGING"*) sleep 60 ;;
  *gpu_steps\\ vit*) echo "ModuleNotFoundError: No module named 'timm'" >&2; exit 1 ;;
  *demo*) mkdir "${@: -1}" ;;
esac
echo "- ok: seen"
"""


class Script:
    """The script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self.commands, self.stub = folder / "Card_A", folder / "commands", folder / "stub"
        self.commands.mkdir()
        self.stub.write_text(STUB)
        self.stub.chmod(0o755)
        self.packages = "jsonargparse matplotlib timm webdataset"

    def call(self, *, failing: str = "never", hanging: str = "never", seconds: int = 540, gpus: int = 2, **more: str):
        """One call, without what the shell has set."""
        environment = {
            "PATH": "/usr/bin:/bin", "PYTHON": str(self.stub), "COMMANDS": str(self.commands), "GPUS": str(gpus),
            "PACKAGES": self.packages, "FAILING": failing, "HANGING": hanging, "CALL_SECONDS": str(seconds), **more,
        }  # fmt: skip
        command = ["bash", ROOT / "benchmarks/gpu.sh", "", "", self.out]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    def asked(self) -> list[list[str]]:
        """The commands so far, each as its arguments."""
        files = sorted(self.commands.iterdir(), key=lambda path: int(path.name))
        return [path.read_text().split("\n")[:-1] for path in files]

    def outcomes(self) -> dict[str, str]:
        return {name: status for name, status, _ in gpu_results.statuses(self.out / "steps")}


@pytest.fixture
def script(tmp_path):
    if not shutil.which("timeout"):
        pytest.skip("needs timeout of the GNU coreutils")
    return Script(tmp_path)


@pytest.mark.parametrize("small", ["0", "1"])
def test_every_command_is_understood(script, small):
    done = script.call(SMALL=small)
    assert done.returncode == 0, done.stdout + done.stderr
    ratios, checks = set(), set()
    for arguments in script.asked():
        module, rest = _module(arguments)
        if module == "dist_plm.bench":
            parsed = bench.command_line().parse_args(rest)
            ratios |= set(bench._names(parsed.only, 2 if "torch.distributed.run" in arguments else 1))
            assert Path(parsed.out).parent == script.out / "steps"
            assert parsed.shards or parsed.only == "P3"
        elif module == "dist_plm.train":
            parsed = train.command_line().parse_args(rest)
            assert parsed.data.shards and parsed.run_dir == str(script.out / "steps" / "run")
        elif module in ("benchmarks.gpu_checks", "benchmarks.gpu_steps"):
            checks.add(rest[0])
            assert rest[1:] == ["--small"] * int(small)
        elif arguments[0] == "shards/build.py":
            build.parser().parse_args(rest)
        else:
            assert module == "benchmarks.gpu_ranks"
    assert ratios == set(bench.NAMES)
    assert checks == {*gpu_checks.CHECKS, *gpu_steps.CHECKS}
    assert script.outcomes().pop("vit").startswith("not checked: No module named 'timm'")


def _module(arguments: list[str]) -> tuple[str, list[str]]:
    """The module of the project that a command starts, and its arguments."""
    if arguments[0] != "-m":
        return "", arguments[1:]
    at = [i for i, each in enumerate(arguments) if each == "-m"][-1]
    return arguments[at + 1], arguments[at + 2 :]


def test_what_fails_is_reported_and_the_rest_runs(script):
    script.packages = "webdataset"
    done = script.call(failing="gpu_checks kernel", gpus=1)
    assert done.returncode == 1
    outcomes = script.outcomes()
    assert outcomes["kernel"] == "FAILED (status 1): boom" and outcomes["saves"] == "ok"
    assert "| kernel | FAILED (status 1): boom |" in gpu_results.document(script.out)
    for name in ("demo", "bench_fp32_P1,P2", "ranks", "vit", "run"):
        assert outcomes[name].startswith("not checked: "), name
    asked = len(script.asked())
    assert script.call(failing="gpu_checks kernel", gpus=1).returncode == 1
    assert len(script.asked()) == asked, "what is done is not repeated"


def test_calls_end_in_time_and_resume(script):
    """A call of 18 seconds has 3 for steps: the first gets them, and none of 200 seconds begins after it."""
    script.packages = "webdataset"  # not what draws the glyphs
    first = script.call(seconds=18)
    assert first.returncode == 75 and "rerun the same command: next is kernel" in first.stdout
    hung = script.call(seconds=18, hanging="gpu_checks kernel")
    assert hung.returncode == 75 and "next is searches" in hung.stdout
    outcomes = script.outcomes()
    assert outcomes.pop("kernel").startswith("FAILED: not done after ")
    assert outcomes == {"machine": "ok", "demo": "not checked: matplotlib is not installed"}
    assert gpu_results.document(script.out).startswith("# Card A\n")


def test_a_step_that_never_ends_is_given_up(script):
    """But not more than three times: what ends each call with it would hold the others up for good."""
    steps = script.out / "steps"
    steps.mkdir(parents=True)
    script.packages = ""
    (steps / "begun").write_text("kernel\nkernel\nkernel\n")
    script.call(seconds=18)
    script.call(seconds=18)
    assert script.outcomes()["kernel"] == "FAILED: begun three times without an end"


def test_one_table_of_the_ratios(tmp_path):
    steps = tmp_path / "NVIDIA_H100" / "steps"
    steps.mkdir(parents=True)
    (steps / "status.tsv").write_text("bench_fp32_P1,P2\tok\t9\nbench_bf16_P1,P2\tok\t8\nsaves\tFAILED (status 1)\t1\n")
    for way, value, met in (("fp32", 1.02, True), ("bf16", 1.2, False)):
        ratio: dict[str, Any] = {
            "what": "a / b", "unit": "ms", "ratio": value, "noise": 0.01, "target": 1.05, "at_most": True, "met": met,
            "numerators": [3.0, 1.0, 2.0], "denominators": [1.0], "note": "of GoogLeNet",
        }  # fmt: skip
        empty = {**ratio, "ratio": None, "numerators": [], "denominators": [], "note": "one rank"}
        (steps / f"bench_{way}_P1,P2.json").write_text(json.dumps({"ratios": {"P1": ratio, "P3": empty}}))
    text = gpu_results.document(tmp_path / "NVIDIA_H100")
    assert "# NVIDIA H100\n" in text and "2 ok, 1 FAILED, 0 not checked." in text
    assert "|  | ratio of | fp32 | bf16 | target |" in text
    row = "| P1 | a / b | 1.020 ± 0.010 (2 / 1 ms) | 1.200 ± 0.010 (2 / 1 ms) **missed** | <= 1.05 |"
    assert row in text and "| P3 | a / b |  |  | <= 1.05 |" in text and "- P3: one rank" in text


def test_waits_and_kernels_of_a_step_alone_count():
    """Not the regions that the profiler mirrors on the GPU, nor its own wait at the end."""
    host, gpu = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA

    def event(name, start, end, device=host, annotation=False):
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, time_range=span, device_type=device, is_user_annotation=annotation,
                               device_time=end - start)  # fmt: skip

    events = [
        event(STEP, 0, 1000), event("aten::mul", 10, 20), event("cudaLaunchKernel", 12, 14),
        event("cudaStreamSynchronize", 30, 40), event("cudaDeviceSynchronize", 1100, 1200),
        event(STEP, 50, 900, gpu, True), event("mul_kernel", 50, 850, gpu), event("Memcpy DtoH", 850, 900, gpu),
    ]  # fmt: skip
    assert Seen.of(events) == Seen(operators=1, kernels=2, busy=0.85, waits=1)
