"""Metrics file, loggers (TensorBoard, Weights & Biases), progress display, timers and profiler."""
