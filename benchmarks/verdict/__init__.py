"""How well statistics without labels predict recall: what docs/verdict.md rests on.

`crops` caches random crops of held-out images, `runs` trains named settings and keeps the held-out embeddings of each
evaluation, `table` measures every predictor on them. It uses the bench of `benchmarks.reproduction`.
"""
