"""What can be known to be wrong before anything starts: each fault is a UserError that names the keys and the mend."""

from .data import ask_for_settings
from .run import check, check_settings

__all__ = ["ask_for_settings", "check", "check_settings"]
