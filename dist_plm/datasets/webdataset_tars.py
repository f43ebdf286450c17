"""Images in WebDataset tars that another program wrote, read in place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dist_plm.datasets.entry import Entry, Source
from dist_plm.datasets.plain import SPLITS, WORDS
from dist_plm.datasets.tree import Tree
from dist_plm.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "avif", "heic", "heif", "bmp", "gif", "tif", "tiff")
LABELS = ("cls", "json")
BESIDE = "not the image of its sample"
LABEL_BYTES = 1 << 20  # brackets of JSON take 20 times their size in memory when parsed
LARGE = "a label of more than 1 MiB, which is not read"


class Sample(NamedTuple):
    """An image in a tar: path of the member, and its class, empty without one."""

    tar: Path
    path: str
    label: str


def webdataset_tars(source: str | Path) -> Source:
    """WebDataset tars of another program: members of one name up to its first dot are a sample.

    A sample's image has one of the usual extensions; `.cls` holds its class, or `.json` does as "class" or "label", -1
    for none. A tar belongs to the split that its name begins with, such as val-0001.tar, else to train.
    """
    tars = tars_of(Path(source))
    if not tars:
        raise UserError(f"--source {source} holds no .tar files")
    trees = {tar: Tree(tar) for tar in tars}
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    beside: list[tuple[str, str]] = []
    for tar, tree in trees.items():
        tar_samples, others = _samples(tar, tree)
        samples[_split(tar)] += tar_samples
        beside += [(f"{tar.name}/{path}", rule) for path, rule in others]
    classes = {split: sorted({s.label for s in listed if s.label}) for split, listed in samples.items() if listed}
    if not classes:
        raise UserError(
            f"--source {source} holds no images: none of its members ends in .{', .'.join(IMAGES[:4])}, ..."
        )

    def entries() -> Iterator[Entry]:
        for split, names in classes.items():
            numbers = {name: number for number, name in enumerate(names)}
            for tar, path, name in samples[split]:
                described = {"split": split, "label": numbers.get(name), "class_name": name or None}
                yield trees[tar].entry(path, name=f"{tar.name}/{path}", **described)

    total = sum(map(len, samples.values()))
    return Source(Path(source).resolve().stem, classes, entries, total, ignored=lambda: iter(beside))


def tars_of(source: Path) -> list[Path]:
    """The tars of a folder in order, or the one tar that is named."""
    if source.is_dir():
        return sorted(path for path in source.glob("*.tar") if not path.name.startswith("."))
    return [source] if source.suffix == ".tar" else []


def _samples(tar: Path, tree: Tree) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The samples of a tar, and path and rule of each other member."""
    groups: dict[str, dict[str, str]] = {}
    beside = []
    for path, rule in tree.walk():
        key, _, extension = PurePosixPath(path).name.partition(".")
        if rule:
            beside.append((path, rule))
        elif extension.lower() in LABELS and tree.size(path) > LABEL_BYTES:
            beside.append((path, LARGE))
        else:
            members = groups.setdefault(str(PurePosixPath(path).with_name(key)), {})
            if same := members.get(extension.lower()):  # in the other case
                beside.append((same, BESIDE))
            members[extension.lower()] = path
    samples = []
    for members in groups.values():
        image = next((members[suffix] for suffix in IMAGES if suffix in members), None)
        beside += [(path, BESIDE) for kind, path in members.items() if path != image and kind not in LABELS]
        if image:
            samples.append(Sample(tar, image, _label(tree, members)))
    return samples, beside


def _label(tree: Tree, members: dict[str, str]) -> str:
    if "cls" in members:
        return _name(tree.data(members["cls"]).decode("utf-8", "replace").strip())
    if "json" not in members:
        return ""
    try:
        described = json.loads(tree.data(members["json"]))
    except (ValueError, RecursionError):
        return ""
    values = (described.get(key) for key in ("class", "label")) if isinstance(described, dict) else ()
    return next((_name(value) for value in values if isinstance(value, str | int | float)), "")


def _name(value: str | float) -> str:
    """The name of a class; empty for -1, by which unlabelled samples are marked."""
    whole = isinstance(value, float) and value.is_integer()
    name = str(int(value) if whole else value)
    return "" if name == "-1" else name


def _split(tar: Path) -> str:
    return WORDS.get(re.split(r"[^a-z]", tar.name.lower())[0], "train")
