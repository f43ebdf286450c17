"""Settings that exclude each other are refused before anything starts, with the keys and the mend."""

import pytest

from dist_plm.checks import check_settings
from dist_plm.config import Config, ModelConfig, RuntimeConfig
from dist_plm.errors import UserError


@pytest.mark.parametrize("ranks", [1, 2])
def test_deepspeed_has_no_generalised_mean(ranks: int) -> None:
    for strategy, pooling in (("ddp", "gem"), ("reproducible", "gem"), ("deepspeed", "avg")):
        check_settings(Config(model=ModelConfig(pooling=pooling), runtime=RuntimeConfig(strategy=strategy)), ranks)
    with pytest.raises(UserError, match=r"model.pooling gem.*--runtime.strategy ddp"):
        check_settings(Config(model=ModelConfig(pooling="gem"), runtime=RuntimeConfig(strategy="deepspeed")), ranks)
