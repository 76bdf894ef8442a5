"""Which texts local models forward, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from assay.scorers.packed_reads import PackedReads


@contextmanager
def forwarded_texts() -> Iterator[Counter[bytes]]:
    """The texts that are put into batches while the block runs, by their tokens -> how often."""
    counted, batches = Counter[bytes](), PackedReads._batches

    def counting(self, completions, rendered):
        for batch, members in batches(self, completions, rendered):
            counted.update(rendered[i].tokens.tobytes() for i in members)
            yield batch, members

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedReads, "_batches", counting)
        yield counted
