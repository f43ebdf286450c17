"""Settings of the paper's section 4.1, for tests that must not move with the defaults."""

from functools import partial

from dist_plm.config import BatchConfig, ModelConfig, ViewsConfig

views_of = partial(ViewsConfig, size=227, resize=256, scale=(0.16, 1.0), flip=0.5, brightness=0.0)
model_of = partial(ModelConfig, backbone="bvlc_googlenet", dim=128, momentum=0.999)
batch_of = partial(BatchConfig, groups=10, group_size=10)
