"""A checkpoint written by several ranks, each its share: what the files hold against what all ranks held."""

from dataclasses import replace

import torch
from safetensors.torch import load_file

from benchmarks.common import on_ranks
from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.checkpoint import Sharded
from dist_plm.checkpoint.saver import Saver
from dist_plm.config import CheckpointConfig
from dist_plm.distributed.world import World
from dist_plm.telemetry.progress import Display

FILE_BYTES = 150_000  # of 400,000 that a rank writes
SIZES = {"a": 90_000, "b": 40_000, "c": 50_000, "d": 30_000, "e": 20_000, "f": 70_000}  # numbers of four bytes


def drawn(world):
    """Six large tensors alike on all ranks, a small one that differs, and nine rows that are cut."""
    random = torch.Generator().manual_seed(0)
    state = {name: torch.randn(size // 100, 100, generator=random) for name, size in SIZES.items()}
    rows = torch.arange(9.0)[:, None].expand(9, 4)
    return state | {"small": torch.tensor(float(world.rank)), "rows": Sharded(rows.chunk(world.size)[world.rank], 9)}


def save(world, folder):
    checkpoint.FILE_BYTES = FILE_BYTES
    saver = Saver(folder, world, Display(world), CheckpointConfig())
    saver.save(7, drawn(world), {})
    saver.finish()
    own = checkpoint.share(drawn(world), world)
    read = {name: Sharded(torch.zeros_like(value.local), 9) if name == "rows" else torch.zeros_like(value)
            for name, value in drawn(world).items()}  # fmt: skip
    checkpoint.load(folder / "step_00000007", read)
    return sorted(set(own) & set(SIZES)), read["rows"].local, {name: read[name] for name in (*SIZES, "small")}


def test_files_are_of_about_the_size_that_is_asked_for(monkeypatch):
    """1.2 MB over three ranks, 150 kB a file: a file for every 450 kB of all, by where a tensor begins."""
    monkeypatch.setattr(checkpoint, "FILE_BYTES", FILE_BYTES)
    numbers = checkpoint.file_numbers(drawn(World()), replace(World(), size=3))
    assert numbers == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 2, "f": 3, "small": 3, "rows": 3}


def test_ranks_write_equal_shares_and_read_the_whole(tmp_path):
    answers = on_ranks(3, tmp_path, save, tmp_path / "checkpoints")
    owners = [names for names, _, _ in answers]
    assert sorted(name for names in owners for name in names) == list(SIZES)
    assert max(sum(SIZES[name] for name in names) for names in owners) <= 110_000  # 300,000 over three
    whole = {"small": torch.tensor(0.0)} | {name: value for name, value in drawn(World()).items() if name in SIZES}
    alone = {name: torch.zeros_like(value) for name, value in whole.items()}  # as an export is made
    checkpoint.load(tmp_path / "checkpoints" / "step_00000007", alone)
    for read in (alone, *(loaded for _, _, loaded in answers)):
        assert all(torch.equal(read[name], value) for name, value in whole.items())
    assert torch.equal(torch.cat([rows for _, rows, _ in answers]), torch.arange(9.0)[:, None].expand(9, 4))
    paths = sorted((tmp_path / "checkpoints" / "step_00000007").glob("*.safetensors"))
    written = [[], [], []]  # a rank's files are named by it
    for path in paths:
        written[int(path.name.split("-")[1]) - 1] += load_file(path)
    assert len(paths) > 3 and [sorted(set(names) & set(SIZES)) for names in written] == owners
    assert [names.count("small") for names in written] == [1, 0, 0]
