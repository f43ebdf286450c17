"""What can be known to be wrong before anything starts: each fault is a UserError that names the keys and the mend."""

from dist_plm.checks.settings import check, check_settings

from .data import ask_for_settings

__all__ = ["ask_for_settings", "check", "check_settings"]
