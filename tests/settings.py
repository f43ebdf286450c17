"""Settings for tests that must not move with the defaults: those of the paper's section 4.1, and a small network."""

from functools import partial
from typing import Any

from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, ViewsConfig, WarmUpConfig

views_of = partial(ViewsConfig, size=227, resize=256, scale=(0.16, 1.0), flip=0.5, brightness=0.0)
model_of = partial(ModelConfig, backbone="bvlc_googlenet", dim=128, momentum=0.999)
batch_of = partial(BatchConfig, groups=10, group_size=10)


def small_config(groups: int = 4, **sections: Any) -> Config:
    """The method without warm-up on a small network, in batches of pairs."""
    small: dict[str, Any] = {
        "model": ModelConfig(backbone="small", dim=8),
        "batch": BatchConfig(groups=groups, group_size=2),
        "manifold": ManifoldConfig(k=5, n_alpha=4.0),
        "warm_up": WarmUpConfig(epochs=0),
        "proxies": ProxiesConfig(count=5),
    }
    return Config(**small | sections)
