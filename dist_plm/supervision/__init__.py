"""Table 2 of the paper: how well the similarities that a method estimates without labels agree with the labels."""
