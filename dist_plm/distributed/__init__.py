"""The process group: joining it, its collectives, its health, signals that end it."""
