"""Settings that depend on the data set, and so must be given."""

from collections.abc import Collection

from dist_plm.config import Config, DataConfig
from dist_plm.data.opening import manifest_of
from dist_plm.errors import UserError

ASKED = ("model.backbone", "views.size")
DEMO = "demo"  # the name in its manifest


def ask_for_settings(config: Config, given: Collection[str]) -> None:
    """Refuse to train the demo's tiny network on another data set because no network was given.

    Args:
        given: Keys that a file or an option set.

    Raises:
        UserError: `ASKED` keys are not given, and the data set is not the demo's.
    """
    missing = [key for key in ASKED if key not in given]
    if missing and config.data.shards != DataConfig().shards and manifest_of(config.data).name != DEMO:
        raise UserError(
            f"{' and '.join(missing)} must be given for {config.data.shards}: the defaults suit the 64-pixel images "
            f"of the demo only. Set {' and '.join(f'--{key}' for key in missing)}, or a --config such as "
            "configs/cub200_best.yaml"
        )
