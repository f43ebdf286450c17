"""What a run says of itself: metrics, loggers, progress, profile."""
