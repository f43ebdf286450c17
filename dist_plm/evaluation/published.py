"""The numbers of the paper, tables 1 to 3, as printed."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def published() -> dict[str, Any]:
    """`published.yaml`: the sections recall (table 1), supervision (table 2) and ablations (table 3)."""
    return yaml.safe_load(files("dist_plm.evaluation").joinpath("published.yaml").read_text(encoding="utf-8"))


def supervision(data: str) -> dict[str, dict[str, float]]:
    """Table 2 for one data set (cub200, cars196, sop): {method: {"purity", "correlation"}}, without what is missing."""
    rows = published()["supervision"]["rows"]
    return {
        row["method"]: {name: row[name][data] for name in ("purity", "correlation") if data in row[name]}
        for row in rows
    }
