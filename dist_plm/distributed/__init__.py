"""The process group: connecting, the World with all collectives, liveness of ranks, signals, launcher variables."""
