"""Which device a rank takes, what is refused, and the arithmetic of the process; CUDA is played by stubs."""

import os
from pathlib import Path

import pytest
import torch

from dist_plm.config import RuntimeConfig
from dist_plm.distributed import device as module
from dist_plm.distributed.device import choose_device, set_arithmetic
from dist_plm.errors import MachineError
from dist_plm.manifold.precision import ieee_products

VARIABLES = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_PROCID", "CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine with so many GPUs that torch can use; returns what to call with it, and the devices made current."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "DRIVER", tmp_path / "version")
    current: list[int] = []

    def with_gpus(count: int) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        return current

    return with_gpus


def test_a_rank_takes_the_gpu_of_its_number(machine):
    current = machine(4)
    assert [choose_device(RuntimeConfig(), rank).index for rank in range(4)] == [0, 1, 2, 3] == current
    with pytest.raises(MachineError, match="local rank 4 has no GPU: this machine has 4"):
        choose_device(RuntimeConfig(), 4)


def test_a_slurm_task_that_sees_one_gpu_takes_it(machine, monkeypatch):
    machine(1)
    with pytest.raises(MachineError):
        choose_device(RuntimeConfig(), 3)  # four ranks of torchrun on one GPU
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert choose_device(RuntimeConfig(), 3).index == 0


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"SLURM_JOB_GPUS": "0,1"}, "SLURM_JOB_GPUS=0,1"),
        ({"CUDA_VISIBLE_DEVICES": "2"}, "CUDA_VISIBLE_DEVICES=2"),
        ({"driver": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue"}, "NVIDIA driver 470.57.02"),
    ],
)
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(evidence, said, device, machine, monkeypatch):
    machine(0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in evidence.items():
        if name == "driver":
            module.DRIVER.write_text(value)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(MachineError, match=said) as raised:
        choose_device(RuntimeConfig(device=device), 0)
    assert "driver 580 or newer" in str(raised.value)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MachineError, match="built without CUDA"):
        choose_device(RuntimeConfig(device=device), 0)
    assert choose_device(RuntimeConfig(device="cpu"), 0).type == "cpu"


@pytest.mark.parametrize("visible", [None, "", "-1"])
def test_without_evidence_of_a_gpu_the_cpu_is_taken(visible, machine, monkeypatch):
    machine(0)
    if visible is not None:
        module.DRIVER.write_text("Kernel Module 580.1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_device(RuntimeConfig(), 0).type == "cpu"
    with pytest.raises(MachineError, match=r"runtime\.device is cuda"):
        choose_device(RuntimeConfig(device="cuda"), 0)


@pytest.fixture
def settings():
    """The process's arithmetic, restored."""
    places = [(torch.backends.cuda.matmul, "fp32_precision"), (torch.backends.cudnn.conv, "fp32_precision"),
              (torch.backends.cudnn.rnn, "fp32_precision"), (torch.backends.cudnn, "benchmark"),
              (torch.backends.cudnn, "deterministic"),
              (torch.utils.deterministic, "fill_uninitialized_memory")]  # fmt: skip
    before = [getattr(place, name) for place, name in places]
    yield
    for (place, name), value in zip(places, before, strict=True):
        setattr(place, name, value)
    torch.use_deterministic_algorithms(False)


def test_float32_is_ieee_in_products_and_convolutions(settings):
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # torch's default
    set_arithmetic(precision="fp32", reproducible=False, device=torch.device("cuda"))
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    set_arithmetic(precision="tf32", reproducible=False, device=torch.device("cuda"))
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"
    with ieee_products():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_reproducible_asks_for_deterministic_kernels(settings, machine, monkeypatch):
    machine(1)
    device = choose_device(RuntimeConfig(strategy="reproducible"), 0)
    set_arithmetic(precision="fp32", reproducible=True, device=device)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
