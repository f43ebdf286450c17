"""The process group: connecting, the World with all collectives, ranks' shares of a batch, lost ranks, signals."""
