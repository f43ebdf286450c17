"""Input of a `fit`: a data set, or a folder, list or tars from which one is built."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dist_plm.data.format import MANIFEST
from dist_plm.datasets.assembly import OtherImages, build, writing
from dist_plm.datasets.build import SHARD_MB, summary
from dist_plm.datasets.entry import Source
from dist_plm.datasets.listed import SUFFIXES, listed
from dist_plm.datasets.plain import folder
from dist_plm.datasets.webdataset_tars import tars_of, webdataset_tars
from dist_plm.errors import UserError
from dist_plm.fit.record import check_owner, claim, owner

SHARDS, LEAST_MB = 24, 0.5


@dataclass(frozen=True)
class Photos:
    """Images named by the user.

    Args:
        path: The named path.
        kind: folder, list, tars, or shards: a data set that is built already.
    """

    path: Path
    kind: str

    @classmethod
    def at(cls, path: Path) -> "Photos":
        """Raises UserError if there are none."""
        if not path.exists():
            raise UserError(f"{path} does not exist: name a folder of images, a list of files, or a data set")
        if path.is_dir():
            if (path / MANIFEST).exists():
                return cls(path, "shards")
            return cls(path, "tars" if tars_of(path) else "folder")
        if path.suffix.lower() in SUFFIXES:
            return cls(path, "list")
        if path.suffix == ".tar":
            return cls(path, "tars")
        raise UserError(f"{path} is neither a folder, a list ({', '.join(SUFFIXES)}) nor a .tar")

    def build(self, run: Path) -> str:
        """Build the data set RUN/shards, or resume that; returns where it lies.

        Raises:
            UserError: nothing can be read, the disk is full, or the run belongs to other images, or these changed.
        """
        check_owner(run, self.path)
        if self.kind == "shards":
            return str(self.path)
        out = run / "shards"
        self._refuse_within(out)
        readers: dict[str, Callable[[Path], Source]] = {"folder": folder, "list": listed, "tars": webdataset_tars}
        built = (out / MANIFEST).exists()
        source = readers[self.kind](self.path)
        # Sweeps resume at a shard: a small data set has several too.
        sizes = [max(entry.size, 0) for entry in source.entries()]
        size = min(SHARD_MB, max(LEAST_MB, sum(sizes) / SHARDS / 1e6)) * 1e6
        source = replace(source, total=len(sizes))
        claim(run, self.path)
        try:
            with writing(out):
                manifest = build(source, out, shard_bytes=round(size), workers=os.cpu_count() or 1)
        except OtherImages as error:
            if error.complete:
                raise UserError(
                    f"the images of {self.path} changed since {run} was started: for a new run choose another --out; "
                    f"to add them to the finished index: dist-plm index update {run / 'index'}"
                ) from error
            shutil.rmtree(out)  # an unfinished build, of images that changed since
            return self.build(run)
        if not built:
            print(summary(manifest, source, out), flush=True)
        return str(out)

    def default_run(self) -> Path:
        """runs/NAME of the images."""
        path = self.path.resolve()
        stem = Path("runs") / (path.stem or "photos")
        if path.is_file() or owner(stem) == str(path):  # earlier versions cut names of folders at their last dot too
            return stem
        return Path("runs") / (path.name or "photos")

    def embed_words(self, shards: str, splits: Sequence[str]) -> list[str]:
        """Options of `embed` that name these images, of all splits."""
        if self.kind == "folder":  # by their own names, so that the index can be updated
            return ["--images", str(self.path)]
        return ["--shards", shards, "--split", *splits]

    def _refuse_within(self, out: Path) -> None:
        if self.kind == "folder" and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(self.path)):
            raise UserError(f"{out} would lie in {self.path}, among the images: choose another folder with --out")
