"""Performance ratios P1 to P13, each measured against a limit of the same machine: `python -m dist_plm.bench`.

`step` measures P1 to P3, `loading` P4 and P5, `searching` P6, `lifecycle` P7 to P10 and P13, `approximate` P11,
`convolutions` P12.
"""
