"""The command line. Importing this package is cheap: commands are imported when they are run."""

from fullgrad.errors import UsageError

__all__ = ["UsageError"]
