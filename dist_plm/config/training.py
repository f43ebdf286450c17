"""Training, evaluation, checkpoints and runtime."""

from dataclasses import dataclass, field
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class TrainConfig:
    """Method, length, logging and precision.

    Args:
        method: Training objective; `proxy_anchor` and `dada` are supervised by the labels of the split.
        epochs: Epochs of the method; an epoch is floor(n / |B|) steps, or `batch.epoch_steps`.
        max_steps: Stop after this total number of steps (0: no limit).
        evaluate_epochs: Epochs between evaluations; the start and the end are always evaluated.
        log_steps: Steps between log lines.
        wandb: Weights & Biases project to log to as well (`pip install -e '.[wandb]'`); empty: none.
        report: Write RUN/report.html at the end, if its libraries are installed (`pip install -e '.[report]'`).
        non_finite: Reaction to a step with a non-finite loss or gradient; its optimizer step is skipped in any case.
        precision: Precision of the encoders (weights stay fp32 in fp16 and bf16); distances, PCA and losses are at
            least fp32. `auto` is bf16 on hardware with native support (GPUs from Ampere on, x86 CPUs with AVX512-BF16
            or AMX), and fp32 elsewhere and under `runtime.strategy: reproducible`; config.yaml of the run stores the
            choice, and a resumed run keeps it. `fp32` is IEEE single precision on GPUs too; `tf32` allows their tensor
            cores to round factors to 10 bits.
    """

    method: Literal["plm", "instance", "neighbour_contrast", "stml", "proxy_anchor", "dada", "pseudo_labels"] = "plm"
    epochs: int = key(4, above=0)
    max_steps: int = key(0, least=0, free=True)
    evaluate_epochs: int = key(4, above=0, free=True)
    log_steps: int = key(10, above=0, free=True)
    wandb: str = key("", free=True)
    report: bool = key(True, free=True)
    non_finite: Literal["stop", "skip"] = "stop"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp64"] = "fp32"


@dataclass
class EvaluationConfig:
    """Metrics on the test split.

    Args:
        ks: Values of K for recall@K.
        batch_size: Batch size of evaluation and embedding passes.
        nmi: Cluster the test embeddings and report NMI.
        raw_pixels: Also report the recall of raw pixels, once, as a lower baseline.
    """

    ks: list[int] = key([1, 2, 4, 8], above=0, filled=True)
    batch_size: int = key(128, above=0, most=2**16)
    nmi: bool = True
    raw_pixels: bool = True


@dataclass
class CheckpointConfig:
    """Checkpointing.

    Args:
        every_steps: Steps between checkpoints; one is always written at the end and on a signal.
        keep: Number of newest checkpoints to keep.
        keep_every_epochs: Also write a checkpoint every N epochs and never delete it (0: none).
        keep_best: Network by which the best checkpoint is selected, kept and linked as checkpoints/best.
        best_by: Criterion of the selection: `recall` (needs labels of the test split), or `label_free`, how often the
            nearest neighbour of a view of a held-out image is its other view, mean of random and strong views; `auto`
            is recall if there are labels.
    """

    every_steps: int = key(100, above=0)
    keep: int = key(2, above=0)
    keep_every_epochs: int = key(0, least=0)
    keep_best: Literal["teacher", "student", "none"] = "teacher"
    best_by: Literal["auto", "recall", "label_free"] = "auto"


@dataclass
class ZeroConfig:
    """ZeRO settings of `runtime.strategy: deepspeed`.

    Args:
        stage: 1 shards the optimizer state, 2 also the gradients, 3 also the weights of student and momentum encoder.
        offload: Offload optimizer state and step to host memory.
    """

    stage: Literal[1, 2, 3] = 2
    offload: bool = False


@dataclass
class RuntimeConfig:
    """Device, parallel strategy, threads and timeouts.

    Args:
        device: `auto` uses a GPU if there is one.
        strategy: Parallel strategy: `ddp` is the fastest; `reproducible` gives bitwise identical results at any world
            size up to `lanes`; `deepspeed` needs less memory. A run may be resumed under another one.
        lanes: Micro-batches of the global batch under `reproducible`, independent of the world size; each rank computes
            whole ones, one at a time. Another number changes the last bits of the result.
        zero: Settings of strategy `deepspeed`.
        compile: Compile the networks to fused kernels (torch.compile, strategy `ddp`); the first step takes minutes.
        threads: Compute threads per rank; 0 divides the cores among the ranks of a machine (`reproducible`: 1, since
            the order of a sum depends on the number of threads).
        timeout_seconds: Time-out of every wait for another rank.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    strategy: Literal["ddp", "reproducible", "deepspeed"] = "ddp"
    lanes: int = key(8, above=0)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    compile: bool = False
    threads: int = key(0, least=0, most=2**12)
    timeout_seconds: float = key(600.0, above=0, most=10**7)  # four months; torch counts nanoseconds in 64 bits
