"""Performance ratios P1 to P11, each measured against a limit of the same machine: `python -m dist_plm.bench`.

`step` measures P1 to P3, `reading` P4 and P5, `searching` P6, `lifecycle` P7 to P10, `approximate` P11.
"""
