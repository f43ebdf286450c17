"""The training run: loop, step, epoch plans, evaluation, log, run directory and resuming."""
