"""The optimisation step on many ranks: strategies, optimisers, loss scale, streams, compilation."""
