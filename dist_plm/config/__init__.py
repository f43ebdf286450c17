"""The configuration schema: one dataclass per section, with defaults and help texts.

Defaults are those of the demo: rendered glyphs and a small network from random weights, minutes on two cores. What
depends on the data set has no default that suits another one; configs/*.yaml state it, the paper's values among them.
This module imports nothing heavy, so that `--help` and a wrong key answer at once.
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
        run_dir: Everything a run writes; the same command with the same folder resumes.
        seed: Of weights, plans and views.
        data: Where the images come from.
        views: How an image becomes views.
        model: Student and momentum encoder.
        batch: Assembly of the global batch.
        index: Search for the neighbours that batches are made of.
        manifold: Neighbourhoods and similarity.
        proxies: rho and Psi.
        loss: Weights of the terms.
        stml: Of method `stml`.
        proxy_anchor: Of methods `proxy_anchor`, `dada` and `pseudo_labels`.
        dada: Of method `dada`.
        pseudo_labels: Of method `pseudo_labels`.
        optimiser: Update rule and schedule.
        warm_up: Phase before the method's own.
        train: Length, logging, precision.
        evaluation: Metrics.
        checkpoint: Saving.
        runtime: Device, threads, timeouts.
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
    """A tree of settings as {"section.key": value}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
