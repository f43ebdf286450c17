"""Submit training runs, hyperparameter sweeps and shard builds to a Slurm cluster, and show their state.

    python launch/slurm.py --nodes 2 --gpus-per-node 8 --partition P --time 24:00:00 --config configs/sop.yaml \\
        --model.weights FILE
    python launch/slurm.py ... --sweep manifold.n_alpha=1,2,4 --sweep seed=0..4
    python launch/slurm.py ... --task shards --parts 64 folder --source PHOTOS --out data/photos
    python launch/slurm.py status RUN
    python launch/slurm.py results SWEEP

Options not listed below are passed to `train` or `shards build`: --config FILE, --section.key
VALUE. Rerunning the command resumes a run. Documentation: docs/clusters.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_plm.cli import OneLineParser, program, run_command
from dist_plm.datasets.arguments import positive
from dist_plm.errors import UserError
from dist_plm.slurm.cluster import Cluster, add_options, cluster_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit, show or report. Exit status 0 done, 1 a local job failed, 2 usage error (nothing was submitted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["status"], ["results"]):
        return _report(*words)
    options, rest = _parser().parse_known_args(words)
    cluster = cluster_of(options)
    if options.local and cluster.nodes > 1:
        raise UserError(f"--local runs on this machine only, but --nodes is {cluster.nodes}")
    if not options.local:
        from dist_plm.slurm.scheduler import check_request, require_slurm, responds, with_cores

        if not options.dry_run:
            require_slurm()
        if not options.dry_run or responds():  # a dry run needs no Slurm, and asks one that is there
            cluster = with_cores(cluster)
        if not options.dry_run:
            check_request(cluster)
    return _shards(options, rest, cluster) if options.task == "shards" else _train(options, rest, cluster)


def _train(options: argparse.Namespace, rest: list[str], cluster: Cluster) -> int:
    from dist_plm.slurm import sweep

    if cluster.gpus_per_node and not any(word.startswith("--runtime.device") for word in rest):
        rest = [*rest, "--runtime.device", "cuda"]  # fail on a node with unusable GPUs instead of training on its CPU
    runs = sweep.runs(rest, options.sweep, cluster.ranks, build=not options.dry_run)
    base = runs[0].path.parent if options.sweep else runs[0].path

    from dist_plm.training.run_directory import RunDirectory

    for run in runs:
        RunDirectory(run.config, force="--force_resume" in rest)
    if options.dry_run:
        from dist_plm.slurm import preview

        preview.show(runs, base, cluster)
        return 0

    from dist_plm.slurm import submission

    if options.local:
        good = [submission.wait(submission.train([run], base, cluster, local=True)) for run in runs]
        _say(base, "done" if all(good) else "failed")
        return 0 if all(good) else 1
    jobs = submission.train(runs, base, cluster, local=False)
    _say(base, f"job {jobs[0].job_id.partition('_')[0]}: {len(runs)} run(s) of {cluster.ranks} ranks")
    return 0


def _shards(options: argparse.Namespace, rest: list[str], cluster: Cluster) -> int:
    from dist_plm.datasets.build import parser, refuse_within

    if cluster.ranks > 1:
        raise UserError("--task shards has one task per part: set --parts and --cpus-per-task, not nodes or GPUs")
    if cluster.cpus_per_task and not any(word.partition("=")[0] == "--workers" for word in rest):
        rest = [*rest, "--workers", str(cluster.cpus_per_task)]
    asked = parser().parse_args(rest)
    refuse_within(asked)
    out = asked.out.absolute()
    if options.dry_run:
        from dist_plm.slurm import preview

        print(preview.batch_script(out.with_name(f"{out.name}.jobs"), cluster, options.parts))
        print(f"# dist-plm shards build {' '.join(rest)} --part 1/{options.parts}, and so on; finally without --part")
        return 0

    from dist_plm.slurm import submission

    jobs = submission.shards(rest, out, options.parts, cluster, local=options.local)
    if options.local:
        return 0 if submission.wait(jobs) else 1
    _say(
        out.with_name(f"{out.name}.jobs"), f"job {jobs[0].job_id.partition('_')[0]}, finished by job {jobs[-1].job_id}"
    )
    return 0


def _report(what: str, *paths: str) -> int:
    if len(paths) != 1 or not Path(paths[0]).is_dir():
        raise UserError(f"usage: {program('python launch/slurm.py')} {what} FOLDER, of a run or a sweep")
    if what == "status":
        from dist_plm.slurm import status

        print(status.report(Path(paths[0]).absolute()))
    else:
        from dist_plm.slurm import results

        print(results.report(Path(paths[0]).absolute()))
    return 0


def _say(base: Path, what: str) -> None:
    print(f"{what}\nstate: {program('python launch/slurm.py')} status {base}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python launch/slurm.py",
        usage=f"{program('python launch/slurm.py')} [options] --config FILE [--section.key VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", choices=["train", "shards"], default="train", help="kind of job (default: train)")
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=V,V", help="one run per value; repeatable")
    parser.add_argument("--parts", type=positive, default=1, help="number of jobs of a shard build")
    parser.add_argument("--dry-run", action="store_true", help="print script, configuration and plan; submit nothing")
    parser.add_argument("--local", action="store_true", help="run the job on this machine, and wait for it")
    add_options(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
