"""Where images come from, how they become views, and how views make a batch."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class DataConfig:
    """Where the images come from.

    Args:
        shards: Folder written by `python shards/build.py`, or the URL of one (http, https, s3, gs, ...).
        train_split: Name of the split that is trained on; only `proxy_anchor` and `dada` read its labels to train.
        test_split: Name of the split that is evaluated: its images are the queries. Empty: no evaluation.
        gallery_split: Split that is searched; empty where queries and gallery are one (all but In-Shop).
        workers: Decoding threads of one rank.
        prefetch: Batches decoded ahead of the step.
        cache_dir: Folder on a disk of each node for what is kept of remote or decoded images; empty: that of the user.
        cache_gb: Most that a node keeps of the images at a URL, GB.
        decoded_side: Decode every training image once, into `cache_dir`, with this shorter side in pixels (at least
            views.resize); 0: from its file, each time. Larger images lose detail: other crops, other numbers.
        retry_seconds: How long a store that does not answer, or answers wrongly, is asked again.
    """

    shards: str = key("data/demo", free=True)
    train_split: str = "train"
    test_split: str = "test"
    gallery_split: str = ""
    workers: int = key(1, above=0, most=2**10, free=True)
    prefetch: int = key(4, above=0, free=True)
    cache_dir: str = key("", free=True)
    cache_gb: float = key(10.0, above=0, free=True)
    decoded_side: int = key(0, least=0)
    retry_seconds: float = key(120.0, above=0, free=True)


@dataclass
class ViewsConfig:
    """How an image becomes views: a random resized crop and a flip to train, resize and centre crop to evaluate.

    Args:
        size: Side of a view, pixels.
        resize: Shorter side of the image before the centre crop of evaluation, pixels.
        count: Views of an image in a batch; all are points of the batch.
        cached: Random views of each image that the frozen part of the network embeds once, for all epochs (needs
            model.trainable head or blocks:N); with the evaluation view they are what batches draw from. 0: new views
            in every epoch.
        scale: Smallest and largest share of the image's area that a crop covers.
        flip: Probability of a horizontal flip.
        brightness: Largest relative change of brightness and of contrast; 0 leaves colours alone.
        interpolation: Filter that resizes; `auto` is the one of the backbone's pretraining where timm knows it, and
            `bilinear` for all others.
    """

    size: int = key(40, above=0, most=2**12)
    resize: int = key(48, most=2**12)
    count: int = key(2, above=0, most=2**10)
    cached: int = key(0, least=0)
    scale: tuple[float, float] = (0.3, 1.0)
    flip: float = key(0.0, least=0, most=1)
    brightness: float = 0.4
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"


@dataclass
class BatchConfig:
    """The global batch: around seeds (section 3.1.1), or of classes, as the method has it.

    It is the same on any number of ranks, up to one an image: its images are split over them as evenly as possible.

    Args:
        groups: N, seeds or classes drawn for a batch.
        group_size: k = |B| / N, a seed and its k - 1 nearest neighbours, or images of one class. Single images (1) need
            no neighbours, and so no sweep, but one where proxies.start is `data`.
        cover: `random` draws seeds from all images (the paper); `disjoint` reads every image once an epoch at most.
        locality: Give each group to the node that holds most of its shards. The batches are the same; their points come
            in another order, so that sums differ in the last bits.
        epoch_steps: Steps of an epoch, where a refresh is to come before all images were read (0: floor(n / |B|)).
            Epochs that fit into one pass over the images begin their groups with different ones.
        refresh_epochs: Epochs between two sweeps of the momentum encoder over the data.
        micro_batches: Pieces in which a rank embeds its share; the gradient is that of the whole batch.
    """

    groups: int = key(20, above=0)
    group_size: int = key(5, above=0)
    cover: Literal["random", "disjoint"] = "random"
    locality: bool = False
    epoch_steps: int = key(0, least=0)
    refresh_epochs: int = key(1, above=0)
    micro_batches: int = key(1, above=0, free=True)

    @property
    def images(self) -> int:
        """|B|, images in a global batch."""
        return self.groups * self.group_size
