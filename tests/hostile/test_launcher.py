"""Values and run directories of a stranger's, given to the launcher."""

import json
import pickle
import subprocess
from pathlib import Path

import pytest

from dist_plm.errors import UserError
from dist_plm.slurm import __main__ as launcher
from dist_plm.slurm import record, script, snapshot, status
from dist_plm.slurm.cluster import Cluster
from dist_plm.slurm.submission import _token

# What a shell would make of a name that it sees unquoted, in double quotes, or in single ones.
NAMES = ["$(touch {p})", "`touch {p}`", '"; touch {p}; "', "'; touch {p}; '", "a b; touch {p} #", "$HOME\\", "*"]

FAKE = """#!/bin/bash
while [ "$1" != bash ]; do shift || exit 0; [ $# -gt 0 ] || exit 0; done
exec "$@"
"""


def run_script(text: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """The batch script, with an srun that runs the check of the folder on this machine, and nothing else."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text(FAKE)
    (tools / "srun").chmod(0o755)
    (tmp_path / "job.sh").write_text(text)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    return subprocess.run(["bash", tmp_path / "job.sh"], cwd=here, env=environment, capture_output=True, timeout=60)


def rendered(folder: Path, cluster: Cluster, name: str = "run") -> str:
    asked = script.parameters(cluster, name=name, folder=folder, code=folder / "code-x", token="0" * 16)
    return script.render(folder, asked, cluster, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_directory_is_never_executed(tmp_path, name):
    """Neither where a node does not see it, which says so with the very name, nor where it does."""
    name = name.format(p="p")
    folder = tmp_path / "runs" / name / "launch"
    text = rendered(folder, Cluster(python="true"), name)
    unseen = run_script(text, tmp_path)
    assert unseen.returncode == 2, unseen
    assert f"does not see {folder.parent}: choose a --run_dir" in unseen.stderr.decode()
    folder.mkdir(parents=True)
    (folder / "token").write_text("0" * 16)
    assert run_script(text, tmp_path).returncode == 0
    assert [*(tmp_path / "here").iterdir()] == [] and not list(tmp_path.rglob("p"))


KEYS = ("mem", "partition", "account", "qos", "constraint", "exclude")


@pytest.mark.parametrize("key", KEYS)
def test_no_value_begins_a_command(tmp_path, key):
    values = [name.format(p="p") for name in NAMES]
    for value in values:
        run_script(rendered(tmp_path / "launch", Cluster(**{key: value}, python="true")), tmp_path)
        cluster = Cluster(sbatch={"comment": value, value: "x"}, srun=[value], python="true").checked()
        run_script(rendered(tmp_path / "launch", cluster, value), tmp_path)
    assert [*(tmp_path / "here").iterdir()] == [] and not list(tmp_path.rglob("p"))


@pytest.mark.parametrize("letter", ["\n", "\r", "\x00", "\x1b", "\x85", "\u2028"])
def test_control_characters_are_refused(tmp_path, letter):
    text = f"x{letter}touch p"
    settings = [{key: text} for key in (*KEYS, "python")]
    settings += [{"sbatch": {text: "x"}}, {"sbatch": {"comment": text}}, {"srun": [text]}, {"setup": [text]}]
    for setting in settings:
        with pytest.raises(UserError, match="has a control character") as refused:
            Cluster(**setting).checked()
        assert letter not in str(refused.value)
    with pytest.raises(UserError, match=r"run_dir .* has a control character"):
        rendered(tmp_path / text / "launch", Cluster())


def test_the_command_line_refuses_them_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--partition 'x.ntouch p' has a control character"):
        launcher.main(["--dry-run", "--partition", "x\ntouch p"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [("--workers", "3"), ("--workers=3",)])
def test_given_workers_of_a_build_stay(tmp_path, capsys, workers):
    line = ["--dry-run", "--task", "shards", "--parts", "2", "--cpus-per-task", "16"]
    assert (
        launcher.main([*line, "folder", "--source", str(tmp_path / "a"), "--out", str(tmp_path / "b"), *workers]) == 0
    )
    assert " ".join(workers) in (said := capsys.readouterr().out) and "--workers 16" not in said


@pytest.mark.parametrize("content", ["$(touch p)", "0" * 15, "", "0" * 16 + "\ntouch p"])
def test_a_token_of_a_stranger_is_replaced(tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)
    token = _token(path)
    assert len(token) == 16 and int(token, 16) >= 0 and _token(path) == token == path.read_text()


class Made:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_in_a_run_directory_are_not_read(tmp_path, capsys):
    folder, made = tmp_path / "launch", tmp_path / "made"
    folder.mkdir()
    record.Record("77", "local", str(folder), "", [], "now").save(tmp_path)
    for name in ("77_0_result.pkl", "77_submitted.pkl", "77_0_0_result.pkl"):
        (folder / name).write_bytes(pickle.dumps(Made(made)))
    (folder / "sweep.json").write_text(json.dumps({str(tmp_path / "a"): {"seed": "0"}}))
    for what in ("status", "results"):
        try:
            launcher.main([what, str(tmp_path)])
        except UserError:
            assert what == "status"
    (folder / "sweep.json").unlink()
    assert "77" in status.report(tmp_path)
    assert not made.exists()


def test_a_snapshot_holds_all_that_the_code_needs(tmp_path):
    """Package data too, without which there is no report, no page and no table of published numbers."""
    copied = snapshot.take(tmp_path)
    tracked = subprocess.run(["git", "ls-files", *snapshot.PACKAGES], cwd=snapshot.ROOT, capture_output=True, text=True)
    names = tracked.stdout.split("\n")[:-1]
    assert any(name.endswith("report.html.j2") for name in names)
    names = [
        name for name in names if not (snapshot.ROOT / name).is_symlink()
    ]  # the link to configs/: its files, below
    names += [f"dist_plm/configs/{path.name}" for path in snapshot.ROOT.glob("configs/*.yaml")]
    assert [name for name in names if not (copied / name).is_file()] == []


@pytest.mark.parametrize("fault", ["changed", "added", "bytecode", "link"])
def test_a_snapshot_that_a_stranger_made_is_not_used(tmp_path, fault):
    target = snapshot.take(tmp_path)
    before = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    if fault == "changed":
        (target / "dist_plm" / "__init__.py").write_text("1 / 0")
    elif fault == "added":
        (target / "sitecustomize.py").write_text("1 / 0")
    elif fault == "bytecode":
        (target / "dist_plm" / "__pycache__").mkdir()
        (target / "dist_plm" / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"x")
    else:
        target.rename(tmp_path / "elsewhere")
        target.symlink_to(tmp_path / "elsewhere")
    assert snapshot.take(tmp_path) == target and not target.is_symlink()
    assert {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
