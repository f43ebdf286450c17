"""A run: its length, its evaluations, its checkpoints, its machine."""

from dataclasses import dataclass, field
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class TrainConfig:
    """What is trained, how long, and how often it speaks.

    Args:
        method: What is trained on a batch; `proxy_anchor` and `dada` are supervised by the labels of the split.
        epochs: Epochs of the method's phase; an epoch is floor(n / |B|) steps, or `batch.epoch_steps`.
        max_steps: Stop after so many steps in all (0: never).
        evaluate_epochs: Epochs between evaluations; start and end are always evaluated.
        log_steps: Steps between log lines.
        wandb: Project of Weights & Biases that also gets the numbers (`pip install -e '.[wandb]'`); empty: none.
        report: Write RUN/report.html at the end, where its libraries are installed (`pip install -e '.[report]'`).
        non_finite: What to do about a step whose loss or gradient is not finite: the step is void either way.
        precision: Of the encoders (weights stay fp32 in fp16 and bf16); distances, PCA and losses are always fp32 at
            least. `auto` is bf16 on hardware that multiplies it natively (GPUs from Ampere on, x86 CPUs with
            AVX512-BF16 or AMX) and fp32 elsewhere and under `runtime.strategy: reproducible`; config.yaml of the run
            holds the choice, and a resumed run keeps it on any machine. `fp32` is IEEE single precision on GPUs too;
            `tf32` lets their tensor cores round the factors to 10 bits.
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
        ks: K of recall@K.
        batch_size: Images in a forward pass of evaluation and sweep.
        nmi: Cluster the test embeddings and report NMI.
        raw_pixels: Also report the recall of raw pixels, once, as the floor.
    """

    ks: list[int] = key([1, 2, 4, 8], above=0, filled=True)
    batch_size: int = key(128, above=0, most=2**16)
    nmi: bool = True
    raw_pixels: bool = True


@dataclass
class CheckpointConfig:
    """Saving.

    Args:
        every_steps: Steps between checkpoints; one is always written at the end and on a signal.
        keep: Newest checkpoints kept.
        keep_every_epochs: One is written and kept for good after every so many epochs (0: never).
        keep_best: Which network decides which evaluated checkpoint is written, kept and linked as checkpoints/best.
        best_by: What decides: `recall` of the test split's labels, or `label_free`, the agreement of neighbourhoods
            between two random views of held-out images; `auto` is recall where the test split has labels.
    """

    every_steps: int = key(100, above=0)
    keep: int = key(2, above=0)
    keep_every_epochs: int = 0
    keep_best: Literal["teacher", "student", "none"] = "teacher"
    best_by: Literal["auto", "recall", "label_free"] = "auto"


@dataclass
class ZeroConfig:
    """What `runtime.strategy: deepspeed` cuts among the ranks instead of keeping it whole on each (ZeRO).

    Args:
        stage: 1 cuts the optimiser's state, 2 the gradients too, 3 the weights of student and momentum encoder too.
        offload: Keep the optimiser's state, and take its step, in host memory.
    """

    stage: Literal[1, 2, 3] = 2
    offload: bool = False


@dataclass
class RuntimeConfig:
    """Machine and ranks.

    Args:
        device: `auto` takes a GPU where there is one.
        strategy: `ddp` is the fast one; `reproducible` gives the same bits on any number of ranks up to `lanes`;
            `deepspeed` needs less memory. A run may be resumed under another one.
        lanes: Pieces into which `reproducible` cuts the global batch, at most one an image; a rank computes whole ones,
            one at a time. Another number of lanes changes the bits of the result.
        zero: Of strategy `deepspeed`.
        compile: Make fused kernels of the networks for the steps (torch.compile, strategy `ddp`); the first step takes
            minutes.
        threads: Compute threads of a rank; 0 shares the cores that ranks have in common (`reproducible`: 1, since
            a kernel on two threads adds up in another order).
        timeout_seconds: Bound of every wait for another rank.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    strategy: Literal["ddp", "reproducible", "deepspeed"] = "ddp"
    lanes: int = 8
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    compile: bool = False
    threads: int = key(0, least=0, most=2**12)
    timeout_seconds: float = key(600.0, above=0, most=10**7)  # four months; torch counts nanoseconds in 64 bits
