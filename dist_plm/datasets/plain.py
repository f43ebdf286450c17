"""A tree of images that no list describes: which folders are splits and which classes, which files are left out."""

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
"""Names of the folder of each split, in any case."""

WORDS = {word: split for split, words in SPLITS.items() for word in words}


@dataclass(frozen=True)
class Layout:
    """How a tree is read.

    Args:
        roots: Folder of each split; "" is the source itself.
        aside: The rule that leaves out files beside those folders.
        notes: The same for people.
    """

    roots: dict[str, str]
    aside: str
    notes: tuple[str, ...]


def folder(source: str | Path) -> Source:
    """Any tree of images: a class is a folder right below its split, an image above those has none.

    Splits are folders called train, val, test, query and gallery at the top; where there are none, all is `train`. A
    single folder at the top that holds others is gone through. Every file is an entry, whatever its name, or left out
    by a rule.
    """
    tree = Tree(source)
    layout = layout_of(tree)
    classes = {split: tree.folders(root) for split, root in layout.roots.items()}
    if "gallery" in classes:  # what is searched for and what is searched are compared by label
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
                    raise UserError(f"{path} came while --source {source} was read: the same command reads it anew")
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
        UserError: two folders mean one split.
    """
    root, notes = _sole_root(tree)
    below = f"{root}/" if root else ""
    named = [(name, WORDS[name.lower()]) for name in tree.folders(root) if name.lower() in WORDS]
    others = [name for name in tree.folders(root) if name.lower() not in WORDS]
    found = dict.fromkeys(split for _, split in named)
    # One folder that is called as a split, among others that are not, is a class: trains beside buses and cars.
    if len(found) < 2 and (others or not found or tree.has_images(root)):
        if found:
            notes.append(f"{below}{named[0][0]}/ is a class: what lies beside it is no split")
        return Layout({"train": root}, f"beside {root}/, which holds all folders of images", tuple(notes))
    for split in found:
        if len(same := [f"{below}{name}" for name, meant in named if meant == split]) > 1:
            raise UserError(f"{' and '.join(same)} in {tree.source} both mean the split {split}: join or rename them")
    roots = {split: below + next(n for n, s in named if s == split) for split in SPLITS if split in found}
    notes += [f"split {split}: {folder}/" for split, folder in roots.items() if folder != split]
    return Layout(roots, f"beside the splits {', '.join(roots)}", tuple(notes))


def _sole_root(tree: Tree) -> tuple[str, list[str]]:
    """The folder below which the classes or splits lie: past folders that are alone and hold folders."""
    root = ""
    while len(names := tree.folders(root)) == 1 and names[0].lower() not in WORDS:
        inner = f"{root}/{names[0]}" if root else names[0]
        if not tree.folders(inner) or tree.has_images(root):
            break
        root = inner
    return root, [f"read from {root}/, which holds all folders of images"] if root else []
