"""benchmarks/overoptimization_smollm2.py: its gold by hand, the law of its labeller, and all three ways from end to end with a tiny
model."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from assay.messages import Message
from assay.records import Completion
from benchmark_documents import document
from tiny import save_tiny_base

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import overoptimization_smollm2 as benchmark

PROMPT = benchmark.FORMS[0].format(thing="tea", word="often")


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        ("People often drink tea in the morning.", 2.0),
        ("People often drink coffee in the morning.", 1.0),
        ("Often tea.", 2.0 - 0.4),  # four words too few
        ("People often drink tea in the morning", 2.0 - 1.0),  # no full stop
        ("Often people often drink tea, often.", 2.0 - 0.2),  # often twice more
        ("tea often " + "a " * 20 + "!", 2.0 - 0.2),  # two words too many; short words may come again
        ("", -1.0 - 0.6),
    ],
)
def test_gold_is_the_rule_of_the_head(response, worth):
    assert benchmark.gold(PROMPT, response) == pytest.approx(worth)
    assert benchmark.gold(benchmark.FORMS[1].format(thing="tea", word="often"), response) == pytest.approx(worth)


def test_labels_follow_bradley_terry():
    said = benchmark.noisy(0.5, 0)
    better = [Completion(messages=(Message("user", PROMPT),), response=f"tea often a a b{i}.") for i in range(4_000)]
    worse = [Completion(messages=(Message("user", PROMPT),), response=f"tea often a b{i}.") for i in range(4_000)]
    wins = np.mean(np.array(said(better)) > np.array(said(worse)))
    expected = 1 / (1 + math.exp(-0.1 / 0.5))  # one word nearer to six
    assert abs(wins - expected) < 4 * math.sqrt(expected * (1 - expected) / 4_000)
    assert said(better[:5]) == said(better[:5])


def test_no_prompt_is_in_two_uses():
    uses = benchmark.prompts_of(benchmark.SmolConfig(keep=Path("unused")))
    texts = [prompt.messages[0].content for use in uses for prompt in use]
    assert len(texts) == len(set(texts)) == 2 * 300 + 48


def test_all_three_ways_run_and_are_read_again(tmp_path):
    words = [
        *("--keep", str(tmp_path / "kept"), "--policy", str(save_tiny_base(tmp_path / "base")), "--depth", "full", "--epochs", "1"),
        *("--label-prompts", "150", "--refresh-every", "1", "--refresh-pairs", "4", "--training.steps", "2"),
        *("--training.prompts", "2", "--training.samples", "2", "--training.max-tokens", "6", "--training.evaluate-every", "1"),
        *("--training.eval-prompts", "4", "--training.save-every", "1", "--training.params", "full"),
    ]
    found = document(benchmark.main, *words, "--page", str(tmp_path / "page.html"))
    assert list(found["arms"]) == list(benchmark.ARMS)
    assert all(one["steps"] == [0, 1, 2] for one in found["arms"].values())
    assert all(len(one["gold"]) == 3 for one in found["arms"].values())
    assert found["labels"]["pairs"] > 150
    assert "single: gain in gold at the end" in found["gained, 95% over the held-out prompts"]
    assert "SmolLM2 against its reward models" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert document(benchmark.main, *words) == found
    with pytest.raises(ValueError, match="was made with other settings"):
        document(benchmark.main, *words, "--noise", "1")
    with pytest.raises(ValueError, match="there is no arm 'mean'"):
        document(benchmark.main, *words, "--arms", "mean")
