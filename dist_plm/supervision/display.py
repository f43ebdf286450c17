"""Prints the quality of self-supervision beside the paper's table 2."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dist_plm.evaluation.published import supervision


def show(result: dict[str, Any]) -> None:
    """Print the table, and numbers specific to PLM."""
    console, paper = Console(stderr=True), supervision(result["data"])
    title = f"{result['data']} {result['split']}, {result['images']:,} images"
    note = (
        "control: purity of as many nearest neighbours; MAP@R: of the similarity as a ranking, ties by distance; "
        "paper: its table 2, purity and correlation"
    )
    table = Table(title=title, caption=note, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    for head in ("method", "purity", "control", "|X|", "corr.", "in batch", "MAP@R", "paper", "corr."):
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for name, row in result["methods"].items():
        every, batch = row["all"], row["batches"]["correlation"]
        numbers = [f"{every[key]:.3f}" for key in ("purity", "purity_control")]
        numbers += [
            f"{every['mean_size']:.1f}",
            f"{every['correlation']:.3f}",
            f"{batch:.3f}",
            f"{every['map_at_r']:.3f}",
        ]
        known = [paper.get(name, {}).get(key) for key in ("purity", "correlation")]
        printed = ["-" if value is None else f"{value:.2f}" for value in known]
        table.add_row(name, *numbers, *printed)
    console.print(table)
    plm = result["methods"]["plm"]
    for where, row in (("all pairs", plm["all"]), ("in batches", plm["batches"])):
        attracted = "no positive pairs"
        if "positives_attracted" in row:  # batches of few labels may hold none
            positive, negative = (f"{row[f'{kind}_attracted']:.2%}" for kind in ("positives", "negatives"))
            attracted = f"attracted {positive} of positive and {negative} of negative pairs"
        console.print(f"{where}: {attracted}; purity {row['purity']:.3f}, control {row['purity_control']:.3f}")
        total = sum(row["sizes"].values())
        console.print("  |X_i|: " + "  ".join(f"{size}: {count / total:.1%}" for size, count in row["sizes"].items()))
    if result["proxies"]:
        used = result["proxies"]
        console.print(f"proxies: {used['used']:.1%} are used as a nearest proxy, effectively {used['effective']:.1f}")
