"""Pictures of a run for the page: gallery, confused classes, map, neighbourhoods, coverage."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dist_plm.config import Config
from dist_plm.data.opening import open_split, open_test
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder
from dist_plm.encoders.networks import load_network, locate
from dist_plm.report.before_after import Changed, changed_neighbours
from dist_plm.report.charts import Spec, histogram, point_map
from dist_plm.report.coverage import Coverage, read_coverage
from dist_plm.report.history import History
from dist_plm.report.landscape import hues, landscape
from dist_plm.report.neighbourhoods import Hood, last_neighbourhoods
from dist_plm.report.retrieved import Retrieved, retrieve
from dist_plm.report.test_split import EmbeddedSplit, embed
from dist_plm.report.thumbnails import thumbnail, view_thumbnail
from dist_plm.telemetry.progress import Display

SIDE, MAP_SIDE = 96, 56  # pixels of a thumbnail
CLASSES, QUERIES, PAIRS, HOODS, UNREAD = 6, 3, 6, 6, 12


@dataclass(frozen=True)
class Picture:
    """A thumbnail, its tooltip, and its frame: right, wrong, member, rejected, new, gone or none."""

    image: str
    text: str
    frame: str = ""


@dataclass(frozen=True)
class Strip:
    """A query or an anchor, and its results."""

    query: Picture
    results: list[Picture]


@dataclass
class Pictures:
    """All pictures of a run; unavailable ones are empty.

    Attributes:
        classes: (class, recall@1, strips), worst first.
        confused: (class, predicted class, share, strips), most frequent first.
        queries: Strips of a few queries, spread evenly over the split.
        moved: Strips of fixed queries at the start and now.
        changed: The numbers of `moved`.
        map: Specification of the map.
        mapped: Images on it.
        hoods: Anchors with the candidate members (X_i).
        coverage: Coverage of the training images.
        reads: Histogram of the coverage.
        unread: Least-read images.
    """

    classes: list[tuple[str, float, list[Strip]]] = field(default_factory=list)
    confused: list[tuple[str, str, float, list[Strip]]] = field(default_factory=list)
    queries: list[Strip] = field(default_factory=list)
    moved: list[tuple[Strip, Strip]] = field(default_factory=list)
    changed: Changed | None = None
    map: Spec | None = None
    mapped: int = 0
    hoods: list[Strip] = field(default_factory=list)
    coverage: Coverage | None = None
    reads: Spec | None = None
    unread: list[Picture] = field(default_factory=list)


def take_pictures(
    pictures: Pictures, history: History, runs: list[str], *, config: Config, world: World, display: Display
) -> None:
    """Embed missing images, search, and add thumbnails to `pictures`.

    Raises:
        UserError: The run has no checkpoint, its data set is missing, or its embeddings are not finite; `pictures` has
                the parts that were finished before.
    """
    run = history.path
    trained = locate(run)
    student, teacher = (load_network(trained, network, world.device) for network in ("student", "teacher"))
    _cover(pictures, run, history.name, runs, config)
    pictures.hoods = [_hood(hood) for hood in last_neighbourhoods(teacher, run, config=config, most=HOODS)]
    _compare(pictures, changed_neighbours(student, history, config=config))
    take_test_pictures(pictures, student, run, config=config, world=world, display=display)


def take_test_pictures(
    pictures: Pictures, embedder: Embedder, run: Path, *, config: Config, world: World, display: Display
) -> None:
    """The part of `take_pictures` that needs one network alone: the test split embedded and searched.

    Args:
        run: Folder whose `sweeps/` may hold the embeddings already.
    """
    if not config.data.test_split:
        return
    embedded = partial(embed, embedder, run, config=config, world=world, display=display)
    stores = open_test(config.data)
    queries = embedded(stores[0])
    gallery = queries if stores[1] is stores[0] else embedded(stores[1])
    retrieved = retrieve(queries, gallery, seed=config.seed, backend=config.index.backend)
    with display.phase("pictures", 2, "parts") as phase:
        _search(pictures, retrieved)
        phase.advance()
        _map(pictures, retrieved, seed=config.seed)
        phase.advance()


def _compare(pictures: Pictures, changed: Changed | None) -> None:
    pictures.changed = changed
    for query, before, now in changed.rows if changed else ():
        picture = partial(_of_image, changed.store)  # type: ignore[union-attr]
        pictures.moved.append(
            (
                Strip(picture(query), [picture(image, "" if image in now else "gone") for image in before]),
                Strip(picture(query), [picture(image, "" if image in before else "new") for image in now]),
            )
        )


def _of_image(store: Store, id: int, frame: str = "") -> Picture:
    label = int(store.labels[id])
    return Picture(thumbnail(store.read_image(id), SIDE), store.classes[label] if label >= 0 else f"image {id}", frame)


def _search(pictures: Pictures, retrieved: Retrieved) -> None:
    spread = np.unique(np.linspace(0, len(retrieved.rows) - 1, CLASSES + 2).astype(int)[1:-1])
    pictures.queries = [_strip(retrieved, int(position)) for position in spread]
    if not retrieved.labelled:
        return
    names, others = retrieved.queries.store.classes, retrieved.gallery.store.classes
    for label, recall in retrieved.worst_classes()[:CLASSES]:
        strips = [_strip(retrieved, position) for position in retrieved.of_class(label, QUERIES)]
        pictures.classes.append((names[label], recall, strips))
    labels, nearest = retrieved.queries.labels[retrieved.rows], retrieved.gallery.labels[retrieved.neighbours[:, 0]]
    for label, other, _, share in retrieved.most_confused()[:PAIRS]:
        taken = np.flatnonzero((labels == label) & (nearest == other))[:QUERIES]
        strips = [_strip(retrieved, position, most=1) for position in taken]
        pictures.confused.append((names[label], others[other], share, strips))


def _strip(retrieved: Retrieved, position: int, most: int | None = None) -> Strip:
    row, right = int(retrieved.rows[position]), retrieved.right[position]
    labelled = retrieved.queries.labels[row] >= 0
    neighbour_pictures = [
        _picture(retrieved.gallery, int(neighbour), ("right" if fits else "wrong") if labelled else "")
        for neighbour, fits in zip(retrieved.neighbours[position][:most], right, strict=False)
    ]
    return Strip(_picture(retrieved.queries, row), neighbour_pictures)


def _picture(embedded: EmbeddedSplit, row: int, frame: str = "") -> Picture:
    return Picture(thumbnail(embedded.store.read_image(row), SIDE), embedded.name(row) or f"image {row}", frame)


def _map(pictures: Pictures, retrieved: Retrieved, *, seed: int) -> None:
    scatter = landscape(retrieved, seed=seed)
    if scatter is None:
        return
    positions, places = scatter
    rows, right, queries = retrieved.rows[positions], retrieved.right[positions, 0], retrieved.queries
    labels = queries.labels[rows]
    hue = hues(labels, places)
    names = {label: queries.store.classes[label] if label >= 0 else "unlabelled" for label in hue}
    pictures.mapped = len(rows)
    pictures.map = point_map(
        [
            {
                "x": round(float(x), 4),
                "y": round(float(y), 4),
                "class": names[int(label)],
                "nearest neighbour": "unknown" if label < 0 else "right" if fits else "wrong",
                "image": thumbnail(queries.store.read_image(int(row)), MAP_SIDE),
            }
            for (x, y), row, label, fits in zip(places, rows, labels, right, strict=True)
        ],
        {names[label]: f"hsl({angle}, 65%, 52%)" for label, angle in hue.items()},
    )


def _hood(hood: Hood) -> Strip:
    labels = hood.labels
    texts = ["second view" if image == hood.images[0] else f"image {image}" for image in hood.images]
    agree = [" (same class)" if label == labels[0] else " (another class)" for label in labels]
    shown = [
        Picture(view_thumbnail(view, SIDE), text + (same if labels[0] >= 0 else ""), "member" if member else "rejected")
        for view, member, text, same in zip(hood.views, hood.members, texts, agree, strict=True)
    ]
    return Strip(Picture(shown[0].image, f"image {hood.images[0]}"), shown[1:])


def _cover(pictures: Pictures, run: Path, name: str, runs: list[str], config: Config) -> None:
    with open_split(config.data, config.data.train_split) as store:
        pictures.coverage = read_coverage(run / "plans", len(store))
        if pictures.coverage is None:
            return
        reads = pictures.coverage.reads
        pictures.reads = histogram([{"reads": r, "images": n} for r, n in pictures.coverage.histogram()], name, runs)
        least = np.argsort(reads, kind="stable")[:UNREAD].tolist()
        pictures.unread = [
            Picture(thumbnail(store.read_image(row), SIDE), f"image {row}: read {reads[row]} times") for row in least
        ]
