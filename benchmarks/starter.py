"""The starter set's three promises: length does not tell, no phrase recurs, words alone tell little. Last line: one JSON document.

python benchmarks/starter.py
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from importlib.resources import files

import numpy as np

from assay.data.pairs import read_pairs
from assay.data.split import group_keys
from assay.records import PreferencePair
from assay.scorers.baselines import bag_of_words_cross_validated

SEEDS = 5


def main() -> int:
    pairs = list(read_pairs(str(files("assay.data") / "starter" / "starter.jsonl"), strict=True))
    longer = [len(pair.chosen) > len(pair.rejected) for pair in pairs]
    phrase, count = most_common_8_gram(pairs)
    words = [float((bag_of_words_cross_validated(pairs, seed=seed) > 0).mean()) for seed in range(SEEDS)]
    result = {
        "num_pairs": len(pairs),
        "num_groups": len(set(group_keys(pairs))),
        "axes": dict(Counter(pair.tags["axis"] for pair in pairs)),
        "longer_wins": round(float(np.mean(longer)), 4),
        "most_common_8_gram": {"phrase": phrase, "share_of_pairs": round(count / len(pairs), 4)},
        "bag_of_words_accuracy": {"median": round(float(np.median(words)), 4), "by_seed": [round(value, 4) for value in words]},
    }
    result["holds"] = bool(0.45 <= result["longer_wins"] <= 0.55 and count <= 0.01 * len(pairs) and max(words) < 0.62)
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def most_common_8_gram(pairs: list[PreferencePair]) -> tuple[str, int]:
    """The sequence of eight words that turns up in the most pairs, and in how many."""
    where: dict[str, set[int]] = defaultdict(set)
    for number, pair in enumerate(pairs):
        for text in (*(message.content for message in pair.prompt), pair.chosen, pair.rejected):
            words = re.findall(r"[a-z0-9']+", text.lower())
            for start in range(len(words) - 7):
                where[" ".join(words[start : start + 8])].add(number)
    phrase = max(where, key=lambda gram: (len(where[gram]), gram))
    return phrase, len(where[phrase])


if __name__ == "__main__":
    sys.exit(main())
