"""A run: its length, its evaluations, its checkpoints, its machine."""

from dataclasses import dataclass, field
from typing import Literal


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
