"""Validation of a configuration before anything starts: bounds, rules across keys, data and world size."""

from dist_plm.checks.settings import check

__all__ = ["check"]
