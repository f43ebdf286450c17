"""The package as people install it: a wheel used from an empty folder, and a checkout used from the folder above it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import ROOT

SOURCES = ("dist_plm", "configs", "pyproject.toml", "README.md", "LICENSE")
SHARED = [path for path in sys.path if path.endswith("site-packages")]
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A copy of the sources in a folder called dist_plm: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("above") / "dist_plm"
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def environment(folder: Path, *install: str) -> Path:
    """The bin folder of a new environment that has `install`, and sees the packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "zz_shared.pth").write_text("\n".join(SHARED))  # after the environment's own
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", *OFFLINE, *install]
    subprocess.run(pip, check=True)
    return folder / "bin"


def run(folder: Path, *words: str) -> str:
    """What a command prints in a folder, without this checkout on its path."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(clone) -> Path:
    out = clone.parent / "wheel"
    subprocess.run([sys.executable, "-m", "pip", "wheel", *OFFLINE, "-w", str(out), str(clone)], check=True)
    return next(out.glob("*.whl"))


def test_a_wheel_holds_all_files_of_the_package(clone, wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {str(path.relative_to(clone)) for path in (clone / "dist_plm").rglob("*") if path.is_file()}
    files |= {f"dist_plm/{path.relative_to(clone)}" for path in (clone / "configs").rglob("*.yaml")}
    assert not files - held
    assert len([name for name in held if name.startswith("dist_plm/configs/")]) > 10


def test_a_wheel_works_from_an_empty_folder(wheel, tmp_path):
    bin, empty = environment(tmp_path / "venv", str(wheel)), tmp_path / "empty"
    empty.mkdir()
    where = run(empty, str(bin / "python"), "-c", "import dist_plm; print(dist_plm.__file__, dist_plm.__version__)")
    assert where.startswith(str(tmp_path / "venv"))
    assert "shards build" in run(empty, str(bin / "dist-plm"))
    assert "bvlc_googlenet" in run(empty, str(bin / "dist-plm"), "train", "--config", "cub200_best", "--print_config")
    built = ("shards", "build", "demo", "--images", "8", "--size", "16", "--workers", "1", "--out", "demo")
    assert "train" in run(empty, str(bin / "dist-plm"), *built)
    assert "intact" in run(empty, str(bin / "dist-plm"), "shards", "verify", "demo")


def test_a_checkout_called_dist_plm_is_the_package_from_the_folder_above(clone, tmp_path):
    bin = environment(tmp_path / "venv", "-e", str(clone))
    ask = "import dist_plm; print(dist_plm.__file__, dist_plm.__version__)"
    assert run(clone.parent, str(bin / "python"), "-c", ask).startswith(str(clone / "dist_plm/__init__.py"))
