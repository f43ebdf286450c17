"""Profile of a step: wall time of its parts, a trace for trace viewers, and a table that names the bottleneck."""

from pathlib import Path

from rich.table import Table
from torch.profiler import ProfilerActivity, profile, schedule

from dist_plm.telemetry.metrics import Metrics
from dist_plm.telemetry.parts import Stopwatch, watch
from dist_plm.telemetry.progress import Display

SKIPPED, WARM_UP, STEPS = 2, 1, 10  # first steps choose kernels and allocate; torch's profiler then starts up for one
OTHER = "other"
ADVICE = {
    "decode": "images are decoded too slowly: raise data.workers or data.prefetch",
    "copy": "copies to the device: smaller views, or fewer of them",
    "student": "forward and backward of the student: train.precision bf16, more ranks, a smaller network or view",
    "teacher": "forward of the momentum encoder: train.precision bf16, more ranks, a smaller network or view",
    "neighbourhoods": "PCA of the neighbourhoods: a smaller manifold.k or batch",
    "losses": "similarities and losses over pairs: fewer proxies.count, a smaller batch",
    "gather": "waiting for other ranks: a faster network, or ranks of equal speed",
    "optimiser": "the update: fewer parameters",
    "ema": "the momentum encoder follows the student: fewer parameters",
    "sweep": "embedding the images for the next plan: raise batch.refresh_epochs",
    "evaluation": "evaluation on the test split: raise train.evaluate_epochs",
    "checkpoint": "copying the state, or waiting for the previous write: raise checkpoint.every_steps",
    OTHER: "logging and checks between the steps: raise train.log_steps",
}


class Profiler:
    """Profiles STEPS steps of rank 0; writes RUN/profile/trace.json, prints a table, and logs an event `profile`.

    Args:
        run: The run directory.
        wanted: False does nothing, as on the other ranks.
    """

    def __init__(self, run: Path, metrics: Metrics, display: Display, *, wanted: bool) -> None:
        self._trace = run / "profile" / "trace.json"
        self._metrics, self._display, self._done = metrics, display, 0
        self._stopwatch: Stopwatch | None = None
        self._ended = not (wanted and metrics.active)
        if self._ended:
            return
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (display.device.type == "cuda")
        plan = schedule(skip_first=SKIPPED, wait=0, warmup=WARM_UP, active=STEPS, repeat=1)
        self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._report)
        self._profile.start()

    def step(self) -> None:
        """Between two steps."""
        if self._ended:
            return
        self._done += 1
        if self._done == SKIPPED + WARM_UP:
            self._stopwatch = Stopwatch(self._display.device)
            watch(self._stopwatch)
        self._profile.step()

    def close(self) -> None:
        """Stop at the end of training; a run shorter than the window is reported up to its end."""
        if not self._ended:
            self._profile.stop()

    def _report(self, trace: profile) -> None:
        watch(None)
        stopwatch, steps, self._ended = self._stopwatch, self._done - SKIPPED - WARM_UP, True
        assert stopwatch is not None
        whole = stopwatch.whole
        seconds = dict(stopwatch.seconds)
        seconds[OTHER] = max(0.0, whole - sum(seconds.values()))
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(self._trace))
        self._metrics.write("profile", steps=steps, seconds=seconds)
        self._display.show(table(seconds, steps))
        self._display.say(f"trace: {self._trace} (ui.perfetto.dev or chrome://tracing)")


def table(seconds: dict[str, float], steps: int) -> Table:
    """Milliseconds of each part of a step, largest first, with advice on the largest."""
    whole = sum(seconds.values())
    order = sorted(seconds, key=lambda name: -seconds[name])
    title = f"{steps} steps of rank 0, {1e3 * whole / max(steps, 1):,.1f} ms each"
    drawn = Table(title=title, caption=f"bottleneck: {order[0]} ({ADVICE[order[0]]})")
    drawn.add_column("part")
    for head in ("ms a step", "share"):
        drawn.add_column(head, justify="right")
    for name in order:
        drawn.add_row(name, f"{1e3 * seconds[name] / max(steps, 1):,.1f}", f"{100 * seconds[name] / whole:.1f} %")
    return drawn
