"""The configuration schema: one dataclass per section, with defaults and help texts.

Defaults are those of the demo: rendered glyphs and a small network from random weights, minutes on two cores. Settings
for other data sets, the paper's among them, are in configs/*.yaml. This module imports nothing heavy, so that `--help`
and errors appear at once.
"""

from dataclasses import dataclass, field
from typing import Any

from dist_plm.config.baselines import DadaConfig, ProxyAnchorConfig, PseudoLabelsConfig, StmlConfig
from dist_plm.config.images import BatchConfig, DataConfig, ViewsConfig
from dist_plm.config.index import IndexConfig
from dist_plm.config.method import LossConfig, ManifoldConfig, ProxiesConfig, WarmUpConfig
from dist_plm.config.network import LoraConfig, ModelConfig, OptimiserConfig
from dist_plm.config.training import CheckpointConfig, EvaluationConfig, RuntimeConfig, TrainConfig, ZeroConfig

__all__ = [
    "BatchConfig",
    "CheckpointConfig",
    "Config",
    "DadaConfig",
    "DataConfig",
    "EvaluationConfig",
    "IndexConfig",
    "LoraConfig",
    "LossConfig",
    "ManifoldConfig",
    "ModelConfig",
    "OptimiserConfig",
    "ProxiesConfig",
    "ProxyAnchorConfig",
    "PseudoLabelsConfig",
    "RuntimeConfig",
    "StmlConfig",
    "TrainConfig",
    "ViewsConfig",
    "WarmUpConfig",
    "ZeroConfig",
    "flat",
]

from dist_plm.config.fields import key


@dataclass
class Config:
    """One experiment.

    Args:
        run_dir: Run directory for everything a run writes; rerunning the command resumes.
        seed: Random seed of weights, plans and views.
        data: Data set and loading.
        views: Augmentation and evaluation crops.
        model: Student and momentum encoder.
        batch: Composition of the global batch.
        index: Nearest-neighbour index by which batches are composed.
        manifold: Local neighbourhoods and similarity.
        proxies: Proxies (rho, Psi).
        loss: Loss terms and their weights.
        stml: Settings of method `stml`.
        proxy_anchor: Settings of methods `proxy_anchor`, `dada` and `pseudo_labels`.
        dada: Settings of method `dada`.
        pseudo_labels: Settings of method `pseudo_labels`.
        optimiser: Optimizer and learning-rate schedule.
        warm_up: Contrastive phase before the method.
        train: Method, length, logging, precision.
        evaluation: Metrics.
        checkpoint: Checkpointing.
        runtime: Device, parallel strategy, threads, timeouts.
    """

    run_dir: str = key("runs/demo", free=True)
    seed: int = key(0, least=0, most=2**31 - 1)  # of faiss
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    manifold: ManifoldConfig = field(default_factory=ManifoldConfig)
    proxies: ProxiesConfig = key(ProxiesConfig, methods=("plm", "proxy_anchor", "dada", "pseudo_labels"))
    loss: LossConfig = key(LossConfig, methods=("plm",))
    stml: StmlConfig = key(StmlConfig, methods=("stml",))
    proxy_anchor: ProxyAnchorConfig = key(ProxyAnchorConfig, methods=("proxy_anchor", "dada", "pseudo_labels"))
    dada: DadaConfig = key(DadaConfig, methods=("dada",))
    pseudo_labels: PseudoLabelsConfig = key(PseudoLabelsConfig, methods=("pseudo_labels",))
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = key(EvaluationConfig, free=True)
    checkpoint: CheckpointConfig = key(CheckpointConfig, free=True)
    runtime: RuntimeConfig = key(RuntimeConfig, free=True)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to {"section.key": value}."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves
