"""`--dry-run`: prints the script, the resolved configuration and the resources; nothing is written or submitted."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dist_plm.config import Config
from dist_plm.slurm import record, script, sweep
from dist_plm.slurm.cluster import Cluster
from dist_plm.telemetry import events

RECENT = 100  # step events for the throughput


def batch_script(base: Path, cluster: Cluster, jobs: int) -> str:
    """The script as it would be submitted, with placeholders for names that are not yet known."""
    folder = base / record.FOLDER
    asked = script.parameters(cluster, name=base.name, folder=folder, code=folder / "code-HASH", token="TOKEN")
    return script.render(folder, asked, cluster, jobs)


def show(runs: Sequence[sweep.SweepRun], base: Path, cluster: Cluster) -> None:
    """Print script, configuration and resources of the first run, and the list of a sweep's runs."""
    from dist_plm.training.resources import estimate
    from dist_plm.training.run_directory import dump

    console = Console(soft_wrap=True, highlight=False)
    first = runs[0]
    for title, text in (("script", batch_script(base, cluster, len(runs))), ("config.yaml", dump(first.config))):
        console.rule(title)
        console.print(text, markup=False)
    estimate(first.config, cluster.ranks, measure=False)  # a login node is not what will compute
    console.print(f"estimated time: {duration(first.config, first.path, cluster)}", markup=False)
    for run in runs if len(runs) > 1 else ():
        console.print(f"run {run.path}", markup=False)


def duration(config: Config, run: Path, cluster: Cluster) -> str:
    """Training time at the measured throughput, without evaluations and embedding passes."""
    from dist_plm.data.opening import open_split
    from dist_plm.data.plan import plan_steps

    rates = [event["images_per_second"] for event in events.read(run, "step")[-RECENT:]]
    if not rates:
        return "unknown until the throughput is measured, for example with --train.max_steps 50"
    images = len(open_split(config.data, config.data.train_split))
    steps = plan_steps(images, config.batch) * (config.warm_up.epochs + config.train.epochs)
    total = min(steps, config.train.max_steps or steps) * config.batch.images
    rate = statistics.median(rates)
    minutes = total / rate / 60
    return (
        f"{minutes / 60:,.1f} hours for {total:,} images at {rate:,.0f} images/s (measured in this run), "
        f"{minutes / cluster.minutes:,.1f} x --time {cluster.time}"
    )
