"""`train.precision: auto`: what it becomes, and that a run keeps it; the process settings that every command makes."""

import ctypes
import os
from pathlib import Path

import faiss
import pytest
import torch

from dist_plm.cli import OneLineParser, add_threads
from dist_plm.config import Config, RuntimeConfig, TrainConfig
from dist_plm.distributed.process import limit_threads, prepare_process
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.train import _train
from dist_plm.training import auto_precision
from dist_plm.training.auto_precision import has_native_bf16, resolve_precision
from dist_plm.training.run_directory import dump


def resolved(folder: Path, asked: str = "auto", strategy: str = "ddp") -> tuple[str, str]:
    config = Config(run_dir=str(folder), train=TrainConfig(precision=asked), runtime=RuntimeConfig(strategy=strategy))
    found, reason = resolve_precision(config, World())
    return found.train.precision, reason


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request, monkeypatch):
    monkeypatch.setattr(auto_precision, "has_native_bf16", lambda device: request.param)
    return request.param


def test_auto_is_bf16_only_where_the_hardware_has_it(tmp_path, native):
    assert resolved(tmp_path)[0] == ("bf16" if native else "fp32")
    assert resolved(tmp_path, strategy="reproducible")[0] == "fp32"
    for asked in ("fp32", "bf16", "fp16", "fp64"):
        assert resolved(tmp_path, asked)[0] == asked


@pytest.mark.parametrize("began", ["fp32", "bf16"])
def test_a_run_keeps_the_precision_that_it_began_with(tmp_path, native, began):
    (tmp_path / "config.yaml").write_text(dump(Config(train=TrainConfig(precision=began))))
    found, reason = resolved(tmp_path)
    assert found == began and "as stored in the run" in reason
    assert ("emulated" in reason) == (began == "bf16" and not native)


@pytest.mark.parametrize("strategy", ["reproducible", "deepspeed"])
def test_a_stored_precision_is_checked_as_a_given_one(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr("dist_plm.distributed.connection.connect", lambda *_: World())
    (tmp_path / "config.yaml").write_text(dump(Config(train=TrainConfig(precision="fp16"))))
    auto, strategy = TrainConfig(precision="auto"), RuntimeConfig(strategy=strategy, device="cpu")
    with pytest.raises(UserError, match=rf"runtime.strategy {strategy.strategy} .*fp16"):
        _train(Config(run_dir=str(tmp_path), train=auto, runtime=strategy), force=False, profile=False, advise=False)


@pytest.mark.parametrize(
    ("flags", "expected"), [("fma avx512f avx512_bf16", True), ("amx_bf16", True), ("fma avx512f avx512_bf16x", False)]
)
def test_bf16_is_told_by_the_flags_of_the_cpu(monkeypatch, flags, expected):
    text = f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: fpu {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert has_native_bf16(World().device) == expected


class Calls:
    """Stands in for the C library."""

    def __init__(self, name):
        self.made = []

    def mallopt(self, parameter, value):
        self.made.append((parameter, value))


def test_a_command_sets_the_allocator_unless_the_environment_does(monkeypatch):
    libraries = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libraries.append(Calls(name)) or libraries[-1])
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "OMP_WAIT", "KMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    monkeypatch.setattr("sys.platform", "linux")
    prepare_process()
    assert {parameter for parameter, _ in libraries[0].made} == {-1, -2, -4}
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and os.environ["KMP_BLOCKTIME"] == "7"
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "100000")
    prepare_process()
    assert len(libraries) == 1


def test_the_option_for_threads_is_a_whole_number_from_one(capsys):
    parser = OneLineParser(prog="x")
    add_threads(parser)
    assert parser.parse_args([]).threads == 0 and parser.parse_args(["--threads", "3"]).threads == 3
    for wrong in ("0", "-1", "two", "1.5"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--threads", wrong])
    assert "not an integer from 1" in capsys.readouterr().err


def test_a_limit_of_threads_holds_for_torch_and_faiss():
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        limit_threads(0)
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before
        limit_threads(3)
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
