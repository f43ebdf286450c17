"""Ratios that say how close the code is to the limit of the machine; every ratio within one run on one machine.

`step` measures P1 to P3, `reading` P4 and P5, `searching` P6, `lifecycle` P7 to P10, `approximate` P11.
"""
