"""``python -m sona``."""

from __future__ import annotations

import sys

from sona.cli import main

if __name__ == "__main__":
    sys.exit(main())
