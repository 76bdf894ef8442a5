"""Which tag a set is sorted by, and how evenly it lies over the splits, by numbers counted by hand."""

from __future__ import annotations

import numpy as np

from assay.data.spread import MAX_VALUES, Spread
from assay.records import PreferencePair


def pair(**tags: str) -> PreferencePair:
    return PreferencePair(prompt="q", chosen="a", rejected="b", source="one", tags=tags)


def spread_of(*pairs: PreferencePair) -> Spread:
    spread = Spread()
    for one in pairs:
        spread.add(one)
    return spread


def test_a_tag_in_blocks_is_sorted_and_a_shuffled_or_alternating_one_is_not():
    blocks = ["a"] * 30 + ["b"] * 40 + ["c"] * 30
    shuffled = list(np.random.default_rng(0).permutation(blocks))
    spread = spread_of(
        *(pair(axis=x, other=str(y), turn=str(i % 2)) for i, (x, y) in enumerate(zip(blocks, shuffled, strict=True)))
    )
    assert spread.sorted_by() == ["axis"]
    assert spread.lines() == ["the rows are sorted by axis (3 values), so the first rows are no sample of them"]


def test_shares_in_the_parts():
    pairs = [pair(axis=name) for name in ["a"] * 20 + ["b"] * 20]
    spread = spread_of(*pairs)
    for i, one in enumerate(pairs):
        spread.count("test" if i < 10 else "train", one)
    (line,) = spread.lines()
    assert line == (
        "the rows are sorted by axis (2 values); where shares differ most: "
        "test, without 1 of them, 'a' 100.0% for 50.0%; train, 'a' 33.3% for 50.0%"
    )
    table = spread.table()
    assert table is not None
    assert table.columns == ("axis", "all", "test", "train")
    assert table.rows == (("a", 0.5, 1.0, 1 / 3), ("b", 0.5, 0.0, 2 / 3))


def test_names_single_values_and_few_pairs_are_no_order():
    assert spread_of(*(pair(axis="a") for _ in range(50))).sorted_by() == []
    assert spread_of(*(pair(axis=str(i // 2)) for i in range(3 * MAX_VALUES))).sorted_by() == []
    assert spread_of(*(pair(axis="ab"[i // 5]) for i in range(10))).sorted_by() == []
    assert spread_of().table() is None
    assert spread_of().lines() == []
