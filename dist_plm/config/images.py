"""Data set, augmentation, and composition of batches."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class DataConfig:
    """Data set and loading.

    Args:
        shards: Folder written by `dist-plm shards build`, or the URL of one (http, https, s3 or gs).
        train_split: Training split; only `proxy_anchor` and `dada` use its labels.
        test_split: Test split, whose images are the queries; empty: no evaluation.
        gallery_split: Gallery split; empty if queries and gallery are the same split (all but In-Shop).
        workers: Decoding threads per rank.
        prefetch: Prefetched batches per rank.
        cache_dir: Folder on a local disk of each node for cached remote or decoded images; empty: the user's cache.
        cache_gb: Cache size of a node for images at a URL, GB.
        decoded_side: Decode every training image once, into `cache_dir`, with this shorter side in pixels (at least
            views.resize); 0: decode its file each time. Larger images lose detail, which changes results.
        retry_seconds: How long failed reads from a URL are retried.
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
    """Views of an image: random resized crop and flip for training, resize and centre crop for evaluation.

    Args:
        size: Side of a view, pixels.
        resize: Shorter side of the image before the centre crop of evaluation, pixels.
        count: Views per image in a batch; each is a point of the batch.
        cached: Cached views per image: random views that the frozen part of the network embeds once for all epochs
            (needs model.trainable head or blocks:N); batches draw from them and the evaluation view. 0: new views in
            every epoch.
        scale: Smallest and largest relative area of a crop.
        flip: Probability of a horizontal flip.
        brightness: Largest relative change of brightness and contrast; 0: none.
        interpolation: Resize filter; `auto` is that of the backbone's pretraining if timm knows it, else `bilinear`.
    """

    size: int = key(40, above=0, most=2**12)
    resize: int = key(48, least=0, most=2**12)
    count: int = key(2, above=0, most=2**10)
    cached: int = key(0, least=0)
    scale: tuple[float, float] = (0.3, 1.0)
    flip: float = key(0.0, least=0, most=1)
    brightness: float = key(0.4, least=0, most=1)
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"


@dataclass
class BatchConfig:
    """The global batch: seeds with their nearest neighbours (section 3.1.1), or classes, depending on the method.

    It is independent of the world size, which may be up to the number of its images.

    Args:
        groups: Groups per batch: number of seeds or classes (N).
        group_size: Images per group (k = |B| / N): a seed and its k - 1 nearest neighbours, or images of one class.
            Groups of 1 need no neighbours, and so no embedding pass, except for proxies.start `data`.
        cover: `random` draws seeds from all images (the paper); `disjoint` reads every image at most once per epoch.
        locality: Assign each group to the node with most of its images cached. Batches are the same, but the order of
            their points differs, and so the last bits of sums.
        epoch_steps: Steps per epoch, to refresh the embeddings more often than once per pass over the images (0:
            floor(n / |B|)). Epochs of the same pass use different seeds.
        refresh_epochs: Epochs between two embedding passes of the momentum encoder over the data.
        micro_batches: Micro-batches per rank; the gradient is that of the whole batch.
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
