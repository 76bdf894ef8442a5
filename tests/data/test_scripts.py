"""The script of a text, and what the labels go along with."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from assay.data.balance import first_wins, has_markdown, lead, markdown_wins, script_table
from assay.data.scripts import script_of
from assay.stats.metrics import wilson_interval


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("How do I boil an egg? Größe", "Latin"),
        ("Как сварить яйцо? OK", "Cyrillic"),
        ("怎么煮鸡蛋?", "Han"),
        ("卵の茹で方を教えてください。", "Japanese"),
        ("달걀을 어떻게 삶나요?", "Korean"),
        ("كيف أسلق بيضة؟", "Arabic"),
        ("अंडा कैसे उबालें?", "Devanagari"),
        ("12 + 30 = 42 !!", "no letters"),
        ("", "no letters"),
    ],
)
def test_the_script_of_most_letters(text, script):
    assert script_of(text) == script


@pytest.mark.parametrize("text", ["- one\n- two", "a\n1. b", "# Title", "say **this**", "```\nx\n```", "|a|b|\n|-|-|"])
def test_markdown_is_seen(text):
    assert has_markdown(text)


@pytest.mark.parametrize("text", ["", "a - b", "2 * 3 * 4", "It is #1.", "I have 3. No, 4.", "a|b", "-5 degrees", "1.5 cups"])
def test_plain_text_is_no_markdown(text):
    assert not has_markdown(text)


def test_markdown_counts_where_one_answer_alone_has_it():
    chosen, rejected = np.array([1, 1, 0, 0, 1, 1], bool), np.array([0, 0, 1, 0, 1, 0], bool)
    direction = np.array([1, -1, 1, 1, 1, 0])  # wins, loses, loses, none has it, both have it, a tie
    found = markdown_wins(chosen, rejected, direction, np.arange(6), seed=0)
    assert (found.value, found.n_scored, found.n) == (1 / 3, 3, 6)


def test_the_place_of_the_better_answer():
    found = first_wins(Counter({("vote", 0): 60, ("vote", 1): 40}))
    interval = wilson_interval(60, 100)
    assert (found.value, found.low, found.high, found.n) == (0.6, interval.low, interval.high, 100)
    assert math.isnan(first_wins(Counter({("pairs", 0): 9})).value)
    assert "its place says nothing" in first_wins(Counter({("pairs", 0): 9})).note
    assert "no case" in first_wins(Counter()).note


def test_a_lead_is_warned_of_where_all_of_its_interval_is_far_from_one_half():
    assert lead(first_wins(Counter({("vote", 0): 800, ("vote", 1): 200})), "place", "look").level == "warn"
    assert lead(first_wins(Counter({("vote", 0): 200, ("vote", 1): 800})), "place", "look").level == "warn"
    assert lead(first_wins(Counter({("vote", 0): 8, ("vote", 1): 2})), "place", "look").level == "ok"
    assert lead(first_wins(Counter()), "place", "look").level == "ok"


def test_scripts_are_counted_with_shares():
    table = script_table({("Latin", "Latin"): 3, ("Latin", "Han"): 1})
    assert table.rows == (("Latin", "Latin", 3, 0.75), ("Latin", "Han", 1, 0.25))
