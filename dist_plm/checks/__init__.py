"""What can be known to be wrong before anything starts: each fault is a UserError that names the keys and the mend."""

from dist_plm.checks.settings import check

__all__ = ["check"]
