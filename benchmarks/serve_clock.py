"""Assay's command with a wall clock that jumps by days at every look: python serve_clock.py WORDS. Used by serve_hardship.py."""

from __future__ import annotations

import itertools
import sys
import time

JUMPS = itertools.cycle([0.0, 86_400.0, -86_400.0, 40 * 86_400.0, -3600.0])
real, real_ns = time.time, time.time_ns

if __name__ == "__main__":
    time.time = lambda: real() + next(JUMPS)
    time.time_ns = lambda: real_ns() + int(1e9 * next(JUMPS))
    from assay.cli import main

    sys.exit(main(sys.argv[1:]))
