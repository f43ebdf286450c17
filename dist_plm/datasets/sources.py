"""Official layouts of the retrieval benchmarks; for other folders see plain.py.

The zero-shot protocol of deep metric learning: no class of the test split is in the train split.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from dist_plm.datasets.entry import Entry, Source
from dist_plm.datasets.listed import listed
from dist_plm.datasets.plain import folder
from dist_plm.datasets.tree import Tree
from dist_plm.datasets.webdataset_tars import webdataset_tars
from dist_plm.errors import UserError

Listed = tuple[str, str, str]
"""(split, class name, relative path) of one image."""


def cub200(source: str | Path) -> Source:
    """CUB-200-2011: the first 100 classes train, the last 100 test."""
    tree = Tree(source)
    index = tree.require("CUB-200-2011", "images.txt", "CUB_200_2011/images.txt")
    root = index.removesuffix("images.txt")
    called, labels = (tree.require("CUB-200-2011", root + name) for name in ("classes.txt", "image_class_labels.txt"))
    names = {int(number): name for number, name in tree.table(called, 0).items()}
    classes = {image: int(number) for image, number in tree.table(labels, 1).items()}
    listed = []
    for image, path in tree.lines(index, 2):
        if classes.get(image) not in names:
            raise UserError(f"{labels} or classes.txt does not list image {image} ({path})")
        number = classes[image]
        listed.append(("train" if number <= 100 else "test", names[number], f"{root}images/{path}"))
    ordered = sorted(names)
    numbered = {"train": [names[n] for n in ordered if n <= 100], "test": [names[n] for n in ordered if n > 100]}
    return _source("cub200", tree, listed, numbered, {"train": 5864, "test": 5924})


def cars196(source: str | Path) -> Source:
    """Cars-196: the first 98 classes train, the last 98 test, in both of its published layouts."""
    tree = Tree(source)
    annotations = tree.require(
        "Cars-196",
        *("cars_annos.mat", "devkit/cars_train_annos.mat", "cars_devkit/cars_train_annos.mat", "cars_train_annos.mat"),
    )
    try:
        names, rows = _cars(tree, annotations)
        called = dict(enumerate(names, 1))
        listed = [("train" if number <= 98 else "test", called[number], path) for path, number in rows]
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{tree.source / annotations}, or a file beside it, is not an annotation file of Cars-196 "
            f"({type(error).__name__}: {error}): copy it again"
        ) from error
    return _source("cars196", tree, listed, {"train": names[:98], "test": names[98:]}, {"train": 8054, "test": 8131})


def sop(source: str | Path) -> Source:
    """Stanford Online Products: 11,318 classes train, 11,316 test, as its two lists say."""
    tree = Tree(source)
    name = "Ebay_train.txt"
    layout = "Stanford Online Products"
    root = tree.require(layout, name, f"Stanford_Online_Products/{name}").removesuffix(name)
    listed = [
        (split, f"{product:0>5}", root + path)
        for split in ("train", "test")
        for _, product, _, path in tree.lines(tree.require(layout, f"{root}Ebay_{split}.txt"), 4, skip=1)
    ]
    numbered = {split: sorted({product for s, product, _ in listed if s == split}) for split in ("train", "test")}
    return _source("sop", tree, listed, numbered, {"train": 59551, "test": 60502})


def inshop(source: str | Path) -> Source:
    """In-Shop Clothes Retrieval: train, and a query split searched for in a gallery split of the same classes."""
    tree = Tree(source)
    name = "list_eval_partition.txt"
    partition = tree.require("In-Shop Clothes Retrieval", f"Eval/{name}", name)
    rows = tree.lines(partition, 3, skip=2)
    root = "Img/" if rows and tree.find(f"Img/{rows[0][0]}") else ""
    unknown = {split for _, _, split in rows} - {"train", "query", "gallery"}
    if unknown:
        raise UserError(f"{partition} names the splits {sorted(unknown)}; train, query and gallery are known")
    # Query and gallery are compared by label, so both number the same list of classes.
    shared = sorted({item for _, item, split in rows if split != "train"})
    train = sorted({item for _, item, split in rows if split == "train"})
    numbered = {"train": train, "query": shared, "gallery": shared}
    listed = [(split, item, root + path) for path, item, split in rows]
    return _source("inshop", tree, listed, numbered, {"train": 25882, "query": 14218, "gallery": 12612})


KINDS = {
    "cub200": cub200,
    "cars196": cars196,
    "sop": sop,
    "inshop": inshop,
    "folder": folder,
    "list": listed,
    "tars": webdataset_tars,
}


def _source(
    name: str, tree: Tree, listed: list[Listed], classes: dict[str, list[str]], official: dict[str, int]
) -> Source:
    splits = list(classes)
    listed = sorted(set(listed), key=lambda row: (splits.index(row[0]), row[2]))
    numbers = {split: {c: number for number, c in enumerate(names)} for split, names in classes.items()}

    def entries() -> Iterator[Entry]:
        for split, class_name, path in listed:
            yield tree.entry(path, split=split, label=numbers[split][class_name], class_name=class_name)

    return Source(name, classes, entries, len(listed), official)


def _cars(tree: Tree, annotations: str) -> tuple[list[str], list[tuple[str, int]]]:
    """The names of the classes, and path and number of the class of each image."""
    if annotations == "cars_annos.mat":
        document = _mat(tree, annotations)
        rows = [(str(a.relative_im_path), int(getattr(a, "class"))) for a in document["annotations"]]
    else:
        folder = annotations.removesuffix("cars_train_annos.mat")
        labelled = "cars_test_annos_withlabels.mat"
        tests = tree.require("Cars-196 with the labels of its test images", folder + labelled, labelled)
        document = _mat(tree, tree.require("Cars-196", folder + "cars_meta.mat", "cars_meta.mat"))
        rows = [
            (f"{part}/{a.fname}", int(getattr(a, "class")))
            for part, file in (("cars_train", annotations), ("cars_test", tests))
            for a in _mat(tree, file)["annotations"]
        ]
    return [str(name) for name in document["class_names"]], rows


def _mat(tree: Tree, path: str) -> dict:
    from scipy.io import loadmat

    data = tree.data(path)
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, struct_as_record=False)
    # SciPy raises many kinds of exception for damaged bytes (MatReadError, zlib.error, struct.error, ...).
    except Exception as error:
        raise UserError(f"{path} cannot be read as a MATLAB file: {error}") from error
