"""The optimization step on many ranks: DDP, ZeRO and reproducible strategies, optimizers, loss scale, CUDA streams."""
