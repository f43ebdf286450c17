"""Keys of earlier versions that are now constants: a file that holds one at its former value still loads."""

from typing import Any, NamedTuple


class Retired(NamedTuple):
    """A key that the schema no longer has.

    Attributes:
        reason: Where its value is fixed now.
        value: The only value that a file may still hold; None: any, because the key never changed a result.
    """

    reason: str
    value: Any = None


RETIRED = {
    "stml.sigma": Retired("the kernel width is 3, as in the paper", 3.0),
    "proxy_anchor.margin": Retired("the margin is 0.1, as in the paper", 0.1),
    "dada.discriminator_steps": Retired("the discriminators take 3 steps, as in the published code", 3),
    "runtime.signals": Retired("SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 all checkpoint and exit"),
}


def retired_fault(key: str, value: Any) -> str:
    """Why a configuration can't hold this value of a retired key; empty if it can, and the key is to be ignored."""
    reason, only = RETIRED[key]
    if only is None or value == only:
        return ""
    return f"{key} is {value}, but the key was removed: {reason}"


def without_retired(tree: Any, prefix: str = "") -> Any:
    """A tree of settings without its retired keys.

    Raises:
        ValueError: One has a value that this version does not use.
    """
    if not isinstance(tree, dict):
        return tree
    kept = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key not in RETIRED:
            kept[name] = without_retired(value, f"{key}.")
        elif fault := retired_fault(key, value):
            raise ValueError(fault)
    return kept
