"""A fast bench for ideas: GoogLeNet's trunk frozen and its maps cached, the last blocks and the head trained by the
project's own learner, methods and plans.

`features` caches, `run` trains named settings and appends JSON lines, `table` and `plots` read them.
"""
