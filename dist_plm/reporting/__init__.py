"""The report of one run or of several: one HTML file that needs no network."""

from dist_plm.reporting.page import write_report

__all__ = ["write_report"]
