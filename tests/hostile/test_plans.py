"""Plans of a run from elsewhere: whoever writes one can write the hash that fits it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dist_plm.checkpoint.position import Position
from dist_plm.files.reading import file_digest
from dist_plm.training.resumption import _plan_fault
from tests.hostile.limits import Found, limited

IMAGES = 40
GOOD = np.arange(IMAGES).reshape(5, 4, 2)


def header(shape: str, type: str = "<i8") -> bytes:
    text = f"{{'descr': '{type}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8_000)


def array(values: np.ndarray, **options: bool) -> bytes:
    import io

    np.save(file := io.BytesIO(), values, **options)
    return file.getvalue()


PLANS = {
    "negative": array(np.where(GOOD == 3, -1, GOOD)),
    "beyond the data set": array(np.where(GOOD == 3, IMAGES, GOOD)),
    "far beyond": array(np.where(GOOD == 3, 2**62, GOOD)),
    "of two dimensions": array(GOOD[0]),
    "a number": array(np.int64(3)),
    "empty": array(GOOD[:0]),
    "objects": array(np.array([{}]), allow_pickle=True),
    "fractions": array(GOOD / 3),
    "huge": header("(1000000000000, 10, 10)"),
    "of overflowing shape": header(f"({2**62}, {2**62}, 4)"),
    "of negative shape": header("(-5, 4, 2)"),
    "of many dimensions": header(f"({'1, ' * 200})"),
    "of a nested header": header("(" * 2_000 + ")" * 2_000),
    "of texts": header("(5, 4, 2)", "<U1000000"),
}


def fault(path: Path, **position: str | int) -> str:
    directory = SimpleNamespace(plan=lambda _: path, labels=lambda _: path, nearest=lambda _: path)
    return _plan_fault(Position(**position), directory, IMAGES)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none_is_a_fault_of_its_checkpoint(tmp_path, name):
    path = tmp_path / "epoch_00000.npy"
    path.write_bytes(PLANS[name])
    sha256 = file_digest(path)["sha256"]
    found: Found = limited(fault_of, path, sha256, seconds=5, megabytes=200)
    assert not found.error, found
    assert all(each.startswith(f"the plan {path} can't be read (") and "\n" not in each for each in found.value), found


def fault_of(path: Path, sha256: str) -> list[str]:
    return [fault(path, plan=sha256)]


def test_a_position_lies_within_its_plan(tmp_path):
    path = tmp_path / "epoch_00000.npy"
    path.write_bytes(array(np.zeros((3, 2, 1), "<i8")))
    sha256 = file_digest(path)["sha256"]
    assert fault(path, plan=sha256, batch=2) == ""
    assert "position.batch is 3, beyond the end" in fault(path, plan=sha256, batch=3)


def test_labels_and_neighbours_are_of_all_images(tmp_path):
    path = tmp_path / "x.npy"

    def said(key: str, values: np.ndarray) -> str:
        np.save(path, values)
        return fault(path, **{key: file_digest(path)["sha256"]})

    assert said("plan", GOOD) == said("labels", np.arange(IMAGES) - 1) == said("nearest", GOOD.reshape(-1, 1)) == ""
    assert "40 images" in said("labels", np.zeros(3, np.int64))
    assert "from -2 to" in said("labels", np.arange(IMAGES) - 2)
    assert "not of 40" in said("nearest", np.zeros((3, 2), np.int64))
    assert "from 0 to 40" in said("nearest", np.arange(IMAGES + 1).reshape(-1, 1))
