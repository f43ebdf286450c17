"""Training as a part of `fit`: `dist_plm.train` without the list of next commands, which `fit` carries out itself."""

from dist_plm import train
from dist_plm.cli import run_command


def main() -> int:
    """Train; exit status as `dist_plm.train`."""
    return train.main(advise=False)


if __name__ == "__main__":
    run_command(main)
