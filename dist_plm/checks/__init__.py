"""Validation of a configuration before anything starts: bounds, rules across keys, data and world size."""

from dist_plm.checks.settings import check, check_settings

from .data import ask_for_settings

__all__ = ["ask_for_settings", "check", "check_settings"]
