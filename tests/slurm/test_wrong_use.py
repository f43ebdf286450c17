"""Mistakes on the way to a cluster: one line, status 2, nothing submitted and no folder left."""

import sys
from pathlib import Path

import pytest

from dist_plm.errors import UserError
from dist_plm.report.at_end import missing
from dist_plm.slurm import __main__ as launcher
from dist_plm.slurm import sweep
from dist_plm.slurm.cluster import Cluster, seconds
from tests.commands import Command
from tests.slurm.conftest import Slurm, events, job_of

ROOT = Path(__file__).resolve().parents[2]


def refuse(*arguments: object, match: str) -> None:
    with pytest.raises(UserError, match=match) as refused:
        launcher.main([*map(str, arguments)])
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (("--partition", "gpuu"), "--partition gpuu does not exist: this cluster has debug, high"),
        (("--gpus-per-node", 3), "--gpus-per-node 3: no node of partition debug has more than 2"),
        (("--nodes", 5), "--nodes 5: partition debug has 4"),
        (("--cpus-per-task", 5), "has more than 4 cores"),
        (("--time", "2-00:00:00"), "the limit of partition debug is 1-00:00:00"),
        (("--exclude", "nowhere"), "sbatch refuses: "),
        (("--run_dir", "/proc/run"), "can't be written"),
    ],
)
def test_requests_that_slurm_can_not_meet(slurm: Slurm, config, tmp_path, asked, match):
    refuse("--config", config, "--run_dir", tmp_path / "deep" / "run", *asked, match=match)
    assert list(tmp_path.iterdir()) == []
    assert slurm.ask("squeue", "-h") == ""


def test_a_run_directory_that_a_node_does_not_see(slurm: Slurm, config):
    run = slurm.folder / "private" / "run"
    line = ("--nodes", "2", "--exclude", "node[1-2]", "--config", str(config), "--run_dir", str(run))
    assert launcher.main([*line]) == 0
    slurm.until_left(job_of(run), run, "FAILED")
    (log,) = (run / "launch").glob("*_0_log.err")
    assert f"error: node4 does not see {run}: choose a --run_dir that all nodes share" in log.read_text()
    assert events(run) == []


def test_no_slurm_on_the_path(config, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refuse("--config", config, "--run_dir", tmp_path / "run", match="no sbatch on the PATH: .* --local .* --dry-run")


def test_a_dry_run_needs_no_slurm_and_writes_nothing(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster = ROOT / "configs" / "clusters" / "example.yaml"
    line = ("--cluster", cluster, "--nodes", 2, "--gpus-per-node", 2, "--time", "12:00:00", "--exclude", "node7")
    line += ("--config", config, "--run_dir", tmp_path / "run", "--sweep", "seed=0..2", "--dry-run")
    assert launcher.main([*map(str, line)]) == 0
    said = capsys.readouterr().out
    for part in (
        *(
            "--nodes=2",
            "--ntasks-per-node=2",
            "--gpus-per-node=2",
            "--partition=gpu",
            "--account=my-project",
            "--mem=0",
        ),
        *("--time=720", "--signal=USR2@180", "--requeue", "--exclude=node7", "--cpus-per-task=12", "--array=0-2%3"),
        "device: cuda",  # a node whose GPUs can't be used ends the job instead of training on its CPU
        *("source .venv/bin/activate", "groups: 4", "4 ranks", "estimated time", str(tmp_path / "run" / "seed=2")),
    ):
        assert part in said, part
    assert list(tmp_path.iterdir()) == []


SINFO = """#!/bin/sh
case "$*" in
"-h -o"*) echo 'gpu*|2|gpu:8|96|infinite' ;;
-h) echo 'gpu* up infinite 2 idle node[1-2]' ;;
*) exit 1 ;;
esac
"""


@pytest.mark.parametrize(("answer", "expected"), [(SINFO, True), ("#!/bin/sh\nexit 1\n", False), ("", False)])
def test_a_dry_run_prints_the_cores_of_the_submission(answer, expected, config, tmp_path, monkeypatch, capsys):
    sinfo = tmp_path / "bin" / "sinfo"
    sinfo.parent.mkdir()
    if answer:
        sinfo.write_text(answer)
        sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sinfo.parent}:/bin:/usr/bin" if answer else str(sinfo.parent))
    line = ("--dry-run", "--gpus-per-node", 4, "--config", config, "--run_dir", tmp_path / "run")
    assert launcher.main([*map(str, line)]) == 0
    assert ("--cpus-per-task=12" in capsys.readouterr().out) is expected


def test_the_same_job_on_this_machine(config, tmp_path):
    run = tmp_path / "run"
    line = ("--local", "--tasks-per-node", 2, "--config", config, "--run_dir", run, "--train.max_steps", 2)
    outcome = Command(["launch/slurm.py", *line, "--train.report", "true"]).wait()
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("2 rank(s) on CPU") == 1, "the log of the first rank is relayed, each line once"
    if not missing():
        assert "<html" in (run / "report.html").read_text()  # by the snapshot, whose package data it needs
    assert [event["step"] for event in events(run, "step")] == [1, 2]
    assert Command(["launch/slurm.py", *line, "--batch.groups", 8]).wait().status == 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--tasks-per-node", 2, "--gpus-per-node", 4), "one rank per GPU"),
        (("--nodes", 0), "--nodes is 0"),
        (("--nodes", "many"), "nodes"),
        (("--time", "tomorrow"), "'tomorrow' has none of"),
        (("--time", "1", "--notice-seconds", 90), "--notice-seconds 90"),
        (("--cluster", "gone.yaml"), "gone.yaml"),
        (("--local", "--nodes", 2), "--local runs on this machine only"),
        (("--dry-run", "--sweep", "seed"), "--sweep seed"),
        (("--dry-run", "--sweep", "seed=3..1"), "the range is empty"),
        (("--dry-run", "--sweep", "seed=1,1"), "same run twice"),
        (("--dry-run", "--task", "shards", "--nodes", 2), "one task per part"),
        (("status",), "of a run or a sweep"),
        (("status", "nowhere"), "of a run or a sweep"),
        (("results", "."), "is not a sweep"),
    ],
)
def test_mistakes(arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(*arguments, match=match)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", ["0", "-1", "2.5", "many"])
def test_parts_are_counted_from_one(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit) as left:
        launcher.main(["--task", "shards", "--parts", parts, "--local", "folder", "--source", "photos", "--out", "out"])
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.count("\n") == 1 and f"--parts: '{parts}' is not a positive integer" in said
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_shards_within_their_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    refuse("--task", "shards", "--local", "folder", "--source", "photos", "--out", "photos/x", match="lies in --source")
    assert list(tmp_path.rglob("*")) == [tmp_path / "photos"]


@pytest.mark.parametrize("content", [b"partition: caf\xe9\n", b"[" * 20_000], ids=["latin-1", "deep"])
def test_a_cluster_file_that_can_not_be_read(tmp_path, content):
    (tmp_path / "cluster.yaml").write_bytes(content)
    refuse("--cluster", tmp_path / "cluster.yaml", match=r"--cluster .*cluster.yaml can't be read: ")


def test_a_key_that_no_cluster_file_has(tmp_path):
    (tmp_path / "cluster.yaml").write_text("partitoin: gpu\n")
    refuse("--cluster", tmp_path / "cluster.yaml", match="cluster.yaml.*partitoin")


def test_help_is_quick():
    code = (
        "import sys; from dist_plm.slurm import __main__ as slurm; slurm._parser(); assert 'torch' not in sys.modules"
    )
    assert Command(["-c", code]).wait().status == 0 and "torch" in sys.modules


def test_times_are_slurms():
    times = {"90": 90 * 60, "2:30": 150, "1:00:00": 3600, "1-12": 36 * 3600, "1-00:30": 88200, "2-01:00:05": 176405}
    assert {time: seconds(time) for time in times} == times
    assert Cluster(time="0:61").minutes == 2


def test_values_of_a_sweep():
    assert sweep.parse("manifold.n_alpha=1,2.5,4") == ("manifold.n_alpha", ["1", "2.5", "4"])
    assert sweep.parse("seed=0..2,7") == ("seed", ["0", "1", "2", "7"])
    assert sweep.parse("views.scale=[0.2,1.0],[0.3,1.0]") == ("views.scale", ["[0.2, 1.0]", "[0.3, 1.0]"])
