"""``python -m fullgrad``: the same as the command ``fullgrad``."""

import sys

from fullgrad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
