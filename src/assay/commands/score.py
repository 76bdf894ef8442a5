"""`assay score`: rewards for a file of completions of any size."""

from __future__ import annotations

from assay.bulk.score import ScoreConfig as Config
from assay.bulk.score import say_cost, score_file
from assay.console import print_notice


def run(config: Config) -> int:
    """Score every row; 1 when some have no reward. With --dry-run say what that would cost."""
    if config.dry_run:
        print_notice(f"{say_cost(config):,} rows; nothing was scored")
        return 0
    num_rows, num_failed = score_file(config)
    print_notice(f"{num_rows:,} rows, {num_failed:,} without a reward -> {config.output}")
    return 1 if num_failed else 0
