"""The HTML report of one or several runs, and the table that compares runs with published results."""
