"""The schema of an experiment: one dataclass per concept, checked before any process group or GPU is touched.

Defaults are the paper's values where it states them (section 4.1) and otherwise the readings named beside them.
This module imports nothing heavy, so that `--help` and a wrong key answer at once.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DataConfig:
    """Where the images come from.

    Args:
        shards: Folder written by `python shards/build.py`.
        train_split: Name of the split that is trained on; its labels are never used to train.
        test_split: Name of the split that is evaluated: its images are the queries. Empty: no evaluation.
        gallery_split: Split that is searched; empty where queries and gallery are one (all but In-Shop).
        workers: Decoding threads of one rank.
        prefetch: Batches decoded ahead of the step.
    """

    shards: str = "data/demo"
    train_split: str = "train"
    test_split: str = "test"
    gallery_split: str = ""
    workers: int = 2
    prefetch: int = 4


@dataclass
class ViewsConfig:
    """How an image becomes views: a random resized crop and a flip to train, resize and centre crop to evaluate.

    Args:
        size: Side of a view, pixels.
        resize: Shorter side of the image before the centre crop of evaluation, pixels.
        count: Views of an image in a batch; all are points of the batch.
        scale: Smallest and largest share of the image's area that a crop covers.
        flip: Probability of a horizontal flip.
        brightness: Largest relative change of brightness and of contrast; 0 leaves colours alone.
    """

    size: int = 227
    resize: int = 256
    count: int = 2
    scale: tuple[float, float] = (0.16, 1.0)
    flip: float = 0.5
    brightness: float = 0.0


@dataclass
class ModelConfig:
    """Student and momentum encoder.

    Args:
        backbone: `bvlc_googlenet` (this literature's Caffe network), `small`, or a classifier of torchvision.
        weights: Empty for random ones, `imagenet` for torchvision's own, or a file (.safetensors, .pth).
        dim: Dimension D of the embedding.
        pooling: Global pooling before the head; `avg_max` is the sum of both.
        batch_norm: `frozen` and `synchronised` are exact on any number of ranks; `per_rank` is not.
        momentum: gamma of equation 1.
    """

    backbone: str = "bvlc_googlenet"
    weights: str = ""
    dim: int = 128
    pooling: Literal["avg_max", "avg", "max"] = "avg_max"
    batch_norm: Literal["frozen", "synchronised", "per_rank"] = "frozen"
    momentum: float = 0.999


@dataclass
class BatchConfig:
    """The global batch, assembled by nearest-neighbour sampling (section 3.1.1). Independent of the number of ranks.

    Args:
        groups: N, seeds drawn for a batch; the world size must divide it.
        group_size: k = |B| / N, a seed and its k - 1 nearest neighbours.
        cover: `random` draws seeds from all images (the paper); `disjoint` reads every image once an epoch at most.
        refresh_epochs: Epochs between two sweeps of the momentum encoder over the data.
        micro_batches: Pieces in which a rank embeds its share; the gradient is that of the whole batch.
    """

    groups: int = 10
    group_size: int = 10
    cover: Literal["random", "disjoint"] = "random"
    refresh_epochs: int = 1
    micro_batches: int = 1

    @property
    def images(self) -> int:
        """|B|, images in a global batch."""
        return self.groups * self.group_size


@dataclass
class ManifoldConfig:
    """Neighbourhoods (section 3.2) and similarity (3.3, 3.5).

    Args:
        dim: m, the dimension of a linear neighbourhood P_i.
        k: Nearest neighbours that may join X_i (points of the batch, views included).
        threshold: T, the quality with which every member must be reconstructed.
        criterion: `energy` reads T as |UU'v|^2 / |v|^2 >= T; `norm` as |v - UU'v| / |v| <= 1 - T.
        centre: Where the PCA is centred: the point itself (`anchor`), the `origin`, or the `mean` of X_i.
        n_alpha: Decay of similarity across a neighbourhood (equation 3).
        n_beta: Decay of similarity along a neighbourhood (equation 4).
        scope: `global` takes neighbours from the whole batch on any number of ranks; `rank` from a rank's groups.
        same_image: Force s = 1 between two views of one image.
    """

    dim: int = 3
    k: int = 10
    threshold: float = 0.9
    criterion: Literal["energy", "norm"] = "energy"
    centre: Literal["anchor", "origin", "mean"] = "anchor"
    n_alpha: float = 4.0
    n_beta: float = 0.5
    scope: Literal["global", "rank"] = "global"
    same_image: bool = False


@dataclass
class ProxiesConfig:
    """Proxies rho and their neighbourhoods Psi (section 3.4), sharded over the ranks.

    Args:
        count: P = N_rho; 0 trains without proxies.
        lr_scale: Learning rate of rho and Psi, as a multiple of the network's.
        start: `normal` draws rho and Psi from N(0, 1); `data` takes teacher embeddings and their local bases.
        similarity_gradient: Let s carry gradient into rho and Psi; otherwise s is a constant target.
    """

    count: int = 100
    lr_scale: float = 100.0
    start: Literal["normal", "data"] = "normal"
    similarity_gradient: bool = False


@dataclass
class LossConfig:
    """Equations 6 to 9 as weighted means over pairs.

    The paper adds plain sums. At its |B| = 100 images x 2 views, P = 100 and m = 3 they hold 39,800 : 20,000 : 60,000
    pairs, which is 1 : 0.5025 : 1.5075; as weights of means this ratio holds for any batch.

    Args:
        delta: Distance of two entirely dissimilar points.
        point: Weight of the mean of equation 6.
        proxy: Weight of the mean of equation 7.
        neighbourhood: Weight of the mean of equation 8.
    """

    delta: float = 2.0
    point: float = 1.0
    proxy: float = 20_000 / 39_800
    neighbourhood: float = 60_000 / 39_800


@dataclass
class OptimiserConfig:
    """How weights move.

    Args:
        name: Update rule.
        lr: Learning rate of head and backbone.
        backbone_lr_scale: Learning rate of the backbone, as a multiple of the head's.
        weight_decay: For the network; proxies have none.
        schedule: Learning rate over the steps of a phase.
        warmup_steps: Steps over which the learning rate rises from 0.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 5e-4
    backbone_lr_scale: float = 1.0
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0


@dataclass
class WarmUpConfig:
    """A phase before the method's own for random weights: two-view instance discrimination (NT-Xent).

    Where all embeddings coincide every similarity is 1, so an untrained network is a fixed point of the method.

    Args:
        epochs: Length of the phase; 0 leaves it out.
        lr: Learning rate of the phase.
        temperature: Of the softmax over the batch.
    """

    epochs: int = 0
    lr: float = 1e-3
    temperature: float = 0.1


@dataclass
class TrainConfig:
    """What is trained, how long, and how often it speaks.

    Args:
        method: What is trained on a batch.
        epochs: Epochs of the method's phase; an epoch is floor(n / |B|) steps.
        max_steps: Stop after so many steps in all (0: never).
        evaluate_epochs: Epochs between evaluations; start and end are always evaluated.
        log_steps: Steps between log lines.
        non_finite: What to do about a step whose loss or gradient is not finite: the step is void either way.
        precision: Of the encoders (weights stay fp32 in fp16 and bf16); distances, PCA and losses are always fp32 at
            least.
    """

    method: Literal["plm", "instance"] = "plm"
    epochs: int = 200
    max_steps: int = 0
    evaluate_epochs: int = 10
    log_steps: int = 10
    non_finite: Literal["stop", "skip"] = "stop"
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"


@dataclass
class EvaluationConfig:
    """Metrics on the test split.

    Args:
        ks: K of recall@K.
        batch_size: Images in a forward pass of evaluation and sweep.
        nmi: Cluster the test embeddings and report NMI.
        raw_pixels: Also report the recall of raw pixels, once, as the floor.
    """

    ks: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    batch_size: int = 64
    nmi: bool = True
    raw_pixels: bool = False


@dataclass
class CheckpointConfig:
    """Saving.

    Args:
        every_steps: Steps between checkpoints; one is always written at the end and on a signal.
        keep: Newest checkpoints kept.
    """

    every_steps: int = 200
    keep: int = 2


@dataclass
class RuntimeConfig:
    """Machine and ranks.

    Args:
        device: `auto` takes a GPU where there is one.
        threads: Compute threads of a rank; 0 shares the cores of the machine among its ranks.
        index: Backend of nearest-neighbour search; `auto` is faiss, on the GPU where both are there, else torch.
        timeout_seconds: Bound of every wait for another rank.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    index: Literal["auto", "faiss", "torch"] = "auto"
    timeout_seconds: float = 600.0


@dataclass
class Config:
    """One experiment.

    Args:
        run_dir: Everything a run writes; the same command with the same folder resumes.
        seed: Of weights, plans and views.
        data: Where the images come from.
        views: How an image becomes views.
        model: Student and momentum encoder.
        batch: Assembly of the global batch.
        manifold: Neighbourhoods and similarity.
        proxies: rho and Psi.
        loss: Weights of the terms.
        optimiser: Update rule and schedule.
        warm_up: Phase before the method's own.
        train: Length, logging, precision.
        evaluation: Metrics.
        checkpoint: Saving.
        runtime: Device, threads, timeouts.
    """

    run_dir: str = "runs/default"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    manifold: ManifoldConfig = field(default_factory=ManifoldConfig)
    proxies: ProxiesConfig = field(default_factory=ProxiesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
