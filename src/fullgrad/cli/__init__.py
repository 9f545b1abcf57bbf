"""The command line. Importing this package is cheap: commands are imported when they are run."""

from fullgrad.errors import FullGradError


class UsageError(FullGradError):
    """What was asked for cannot be done; nothing has been."""
