"""Folders of images without a list: rules for splits, classes and ignored files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dist_plm.datasets.entry import Entry, Source
from dist_plm.datasets.tree import Tree
from dist_plm.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "query": ("query", "queries"),
    "gallery": ("gallery",),
}
"""Folder names of each split, case-insensitive."""

WORDS = {word: split for split, words in SPLITS.items() for word in words}


@dataclass(frozen=True)
class Layout:
    """Interpretation of a folder.

    Args:
        roots: Folder of each split; "" is the source itself.
        aside: The rule that ignores files outside of those folders.
        notes: The interpretation, for display.
    """

    roots: dict[str, str]
    aside: str
    notes: tuple[str, ...]


def folder(source: str | Path) -> Source:
    """A folder of images: classes are the subfolders of a split; images directly in the split are unlabelled.

    Splits are top-level folders called train, val, test, query and gallery; without any, all images are `train`. A
    single top-level folder that contains folders is descended into. Every file is an entry, whatever its name, unless a
    rule ignores it.
    """
    tree = Tree(source)
    layout = layout_of(tree)
    classes = {split: tree.folders(root) for split, root in layout.roots.items()}
    if "gallery" in classes:  # queries and gallery are compared by label
        searched = [split for split in ("test", "query", "gallery") if split in classes]
        shared = sorted({name for split in searched for name in classes[split]})
        classes |= dict.fromkeys(searched, shared)

    def entries() -> Iterator[Entry]:
        for split, root in layout.roots.items():
            numbers = {name: number for number, name in enumerate(classes[split])}
            for path, rule in tree.walk(root):
                if rule:
                    continue
                first = path[len(root) + 1 if root else 0 :].split("/")
                name = first[0] if len(first) > 1 else None
                if name and name not in numbers:
                    raise UserError(f"{path} appeared while --source {source} was read: rerun the command")
                yield tree.entry(path, split=split, label=numbers[name] if name else None, class_name=name)

    def ignored() -> Iterator[tuple[str, str]]:
        for path, rule in tree.walk():
            inside = any(not root or path.startswith(f"{root}/") for root in layout.roots.values())
            if rule or not inside:
                yield path, rule or layout.aside

    return Source(Path(source).resolve().stem, classes, entries, ignored=ignored, notes=layout.notes)


def layout_of(tree: Tree) -> Layout:
    """The splits of a tree.

    Raises:
        UserError: Two folders denote the same split.
    """
    root, notes = _sole_root(tree)
    below = f"{root}/" if root else ""
    named = [(name, WORDS[name.lower()]) for name in tree.folders(root) if name.lower() in WORDS]
    others = [name for name in tree.folders(root) if name.lower() not in WORDS]
    splits = dict.fromkeys(split for _, split in named)
    # A single folder with the name of a split, among other folders, is a class: train beside bus and car.
    if len(splits) < 2 and (others or not splits or tree.has_images(root)):
        if splits:
            notes.append(f"{below}{named[0][0]}/ is a class: the folders beside it are not splits")
        return Layout({"train": root}, f"outside of {root}/, with all folders of images", tuple(notes))
    for split in splits:
        if len(same := [f"{below}{name}" for name, meant in named if meant == split]) > 1:
            raise UserError(f"{' and '.join(same)} in {tree.source} both denote the split {split}: merge or rename")
    roots = {split: below + next(n for n, s in named if s == split) for split in SPLITS if split in splits}
    notes += [f"split {split}: {folder}/" for split, folder in roots.items() if folder != split]
    return Layout(roots, f"outside of the splits {', '.join(roots)}", tuple(notes))


def _sole_root(tree: Tree) -> tuple[str, list[str]]:
    """The folder of the classes or splits, below single folders."""
    root = ""
    while len(names := tree.folders(root)) == 1 and names[0].lower() not in WORDS:
        inner = f"{root}/{names[0]}" if root else names[0]
        if not tree.folders(inner) or tree.has_images(root):
            break
        root = inner
    return root, [f"read from {root}/, which contains all folders of images"] if root else []
