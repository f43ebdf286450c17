"""Mistakes about the machine, the ranks and the folders: one or two lines, status 2 or 1, no traceback."""

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch

from dist_plm import evaluate as evaluation
from dist_plm import search as searching
from dist_plm import train as training
from dist_plm.checks import settings as checks
from dist_plm.distributed import device
from dist_plm.report import __main__ as reporting
from tests.end_to_end.conftest import build_demo, contents, refused

LOCAL = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}


@pytest.fixture
def port():
    """A port of this machine that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_gpu_where_there_is_none(mistaken, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "gpu_evidence", lambda: "")
    mistaken("this machine has no NVIDIA GPU: set --runtime.device cpu", "--runtime.device", "cuda")


def test_more_ranks_than_gpus(mistaken, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    mistaken("Start 1 processes a node", "--runtime.device", "cuda", **LOCAL, RANK="1", LOCAL_RANK="1", MASTER_PORT="1")


def test_a_port_that_is_taken(mistaken, port):
    mistaken(f"port {port} of this machine is taken", **LOCAL, RANK="0", MASTER_PORT=str(port))


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_an_environment_of_words(mistaken, name):
    mistaken(f"{name} is 'two'", **{**LOCAL, "RANK": "0", "MASTER_PORT": "29500", name: "two"})


@pytest.mark.parametrize("command", [training.main, evaluation.main, searching.main])
def test_a_place_among_ranks_that_can_not_be(here, tmp_path, finished, monkeypatch, command):
    """A RANK that something left in the environment: every command says what is wrong, none leaves without a word."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    arguments = {
        training.main: ("--run_dir", tmp_path / "run"),
        evaluation.main: ("--checkpoint", finished),
        searching.main: (tmp_path / "nowhere", "--image", "gone.jpg"),
    }[command]
    named = "gone.jpg" if command is searching.main else "RANK is 1 in the environment but WORLD_SIZE is not set"
    refused(here(command, *arguments, RANK="1"), named)
    named = "gone.jpg" if command is searching.main else "RANK is 2 and WORLD_SIZE 2"
    refused(here(command, *arguments, RANK="2", **LOCAL), named)


def test_the_others_do_not_come(tmp_path, tiny, here):
    with socket.socket() as closed:
        closed.bind(("", 0))
        port = closed.getsockname()[1]
    arguments = ("--config", tiny, "--run_dir", tmp_path / "run", "--runtime.timeout_seconds", 1)
    free = {**LOCAL, "RANK": "1", "MASTER_PORT": str(port)}
    outcome = here(training.main, *arguments, **free)
    assert outcome.status == 1 and "could not connect to the other ranks" in outcome.err, outcome
    assert "Traceback" not in outcome.err and not (tmp_path / "run").exists()


def test_a_run_dir_without_permission(mistaken, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:  # whom no mode stops; what the kernel owns does
        closed = Path("/proc/1")
    mistaken("can't be written", "--run_dir", closed / "run")


def test_other_images_than_before(tmp_path, tiny, finished, here):
    run, other = tmp_path / "run", build_demo(tmp_path / "other", seed=1)
    shutil.copytree(finished, run)
    before = contents(run)
    refused(here(training.main, "--config", tiny, "--run_dir", run, "--data.shards", other), "fingerprints differ")
    assert contents(run) == before


def test_a_data_set_that_is_a_file(mistaken, tmp_path):
    (tmp_path / "data").write_text("no folder")
    mistaken("data", "--data.shards", "data")


def test_a_configuration_that_is_a_folder_or_no_text(mistaken, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    mistaken("folder.yaml", "--config", "folder.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"run_dir: \xe4\xff\n")
    mistaken("latin.yaml", "--config", "latin.yaml")


def test_wandb_that_is_not_installed(mistaken, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    mistaken("pip install -e '.[wandb]'", "--train.wandb", "project")


def test_lanes_that_do_not_fit(mistaken):
    line = ("--runtime.strategy", "reproducible", "--runtime.lanes", 3)
    mistaken("runtime.lanes 3 is less than the 4 ranks", *line, WORLD_SIZE="4")


def test_report(tmp_path, finished, here, monkeypatch):
    empty, young = tmp_path / "empty", tmp_path / "young"
    empty.mkdir()
    young.mkdir()
    shutil.copy(finished / "config.yaml", young)
    begun = tmp_path / "begun"
    shutil.copytree(young, begun)
    (begun / "metrics.jsonl").write_text('{"event": "st')
    before = contents(tmp_path)
    for named, arguments in {
        "RUN": (),
        "nowhere": (tmp_path / "nowhere",),
        "is not a run directory": (empty,),
        "metrics.jsonl can't be read": (young,),
        "has no events yet": (begun,),
        "is no folder": (finished, "--out", tmp_path / "gone" / "report.html"),
        "named twice": (finished, finished),
        "--wether": (finished, "--wether", 3),
    }.items():
        refused(here(reporting.main, *arguments), named)
        assert contents(tmp_path) == before, named
    monkeypatch.setattr("dist_plm.report.at_end.find_spec", lambda name: None)
    refused(here(reporting.main, finished), "pip install -e '.[report]'")
