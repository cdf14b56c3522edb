"""`python benchmarks/torture.py` is `python -m benchmarks.torture`; see there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The package beside this file: Python prefers it to a module of the same name.
from benchmarks.torture.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
