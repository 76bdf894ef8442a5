"""A sample of a file: whole prompts, each as likely as the next, the same for the same seed, in memory of the sample's size."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from assay.data.pairs import read_pairs, write_pairs
from assay.data.sampling import draw_pairs, draw_prompts
from assay.data.split import split_of
from assay.records import PreferencePair
from tiny import toy_pairs


def drawn(items, limit, seed=0):
    return draw_prompts(items, limit, seed=seed, prompt_of=lambda item: item[0])


def of_sizes(sizes):
    return [(f"p{prompt}", number) for prompt, size in enumerate(sizes) for number in range(size)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [8, 20, 50, 99])
def test_whole_prompts_in_the_order_of_the_file(limit, seed):
    items = of_sizes([1, 2, 3, 4] * 10)
    order = np.random.default_rng(seed).permutation(len(items))
    shuffled = [items[i] for i in order]
    sample = drawn(shuffled, limit, seed)
    assert [item for item in shuffled if item in sample.items] == list(sample.items)
    prompts = {prompt for prompt, _ in sample.items}
    assert sum(prompt in prompts for prompt, _ in items) == len(sample.items)
    assert limit - 4 < len(sample.items) <= limit
    assert sample.num_seen == len(items)
    assert set(drawn(items, limit, seed).items) == set(sample.items), "whatever the order of the file"


def test_every_prompt_is_as_likely_as_the_next():
    """Whatever its place: 400 seeds, 40 prompts of which 10 are drawn; each about 100 times, standard deviation 8.7."""
    items = of_sizes([1] * 40)
    counts = np.zeros(40)
    for seed in range(400):
        for prompt, _ in drawn(items, 10, seed).items:
            counts[int(prompt[1:])] += 1
    assert counts.sum() == 4000
    assert counts.min() > 100 - 4 * 8.7
    assert counts.max() < 100 + 4 * 8.7


def test_all_when_there_are_no_more():
    items = of_sizes([2, 3])
    assert drawn(items, 5).is_all
    assert drawn(iter(items), 9).items == tuple(items)
    assert drawn([], 3).items == ()


def test_a_prompt_of_too_many_items_is_passed_over_unless_there_is_little_else():
    items = of_sizes([30, *[1] * 10])
    for seed in range(20):
        assert {prompt for prompt, _ in drawn(items, 10, seed).items} == {f"p{i}" for i in range(1, 11)}
    only = drawn(of_sizes([30, 1]), 10)
    assert len(only.items) == 10
    assert {prompt for prompt, _ in only.items} == {"p0", "p1"}


def test_the_draw_says_nothing_of_the_split():
    """Both go by a hash of the prompt: with one hash for both a sample would come from one split alone."""
    pairs = draw_pairs(toy_pairs(2000), 300, seed=0)
    shares = {name: sum(split_of(pair.prompt, seed=0) == name for pair in pairs) / 300 for name in ("train", "calibration", "test")}
    assert abs(shares["train"] - 0.8) < 0.07
    assert abs(shares["test"] - 0.1) < 0.06


def test_memory_is_that_of_the_sample():
    def peak(num_items: int) -> int:
        tracemalloc.start()
        drawn(((f"p{i}", "x" * 500) for i in range(num_items)), 50)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(20_000) < 2 * peak(1000)


def test_a_sorted_file_gives_a_sample_of_all_of_it_and_says_how_it_lies(tmp_path):
    kinds = ["harmless"] * 300 + ["helpful"] * 500 + ["honest"] * 200
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "category": kind, "id": i} for i, kind in enumerate(kinds)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = read_pairs(tmp_path / "set.jsonl", limit=200, seed=3)
    pairs = list(reader)
    counts = {kind: sum(pair.tags["category"] == kind for pair in pairs) for kind in set(kinds)}
    assert len(pairs) == reader.num_given == sum(counts.values()) == 200
    assert abs(counts["harmless"] - 60) < 25
    assert abs(counts["helpful"] - 100) < 28
    assert list(reader) == pairs, "each iteration draws the same"
    assert reader.problems.num_pairs == 1000
    said = reader.summary()
    assert "1,000 rows -> 1,000 pairs; 200 of 1,000 pairs drawn at random, whole prompts, seed 3" in said
    assert "the rows are sorted by category (3 values); where shares differ most: drawn, '" in said
    assert list(read_pairs(tmp_path / "set.jsonl", limit=200, seed=4)) != pairs


def test_a_limit_that_leaves_all_says_nothing(tmp_path):
    write_pairs(tmp_path / "toy.jsonl", toy_pairs(20))
    reader = read_pairs(tmp_path / "toy.jsonl", limit=20)
    assert list(reader) == toy_pairs(20)
    assert "drawn" not in reader.summary()


def test_pairs_of_one_prompt_stay_together():
    pairs = draw_pairs(toy_pairs(90, num_prompts=30), 30, seed=1)
    assert len(pairs) == 30
    assert len({pair.prompt_key for pair in pairs}) == 10
    assert all(isinstance(pair, PreferencePair) for pair in pairs)
