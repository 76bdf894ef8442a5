"""The brevity world: of two answers the shorter one is right. A critique that counts adds nothing to what a scalar model sees.

A negative control of generative models, made by the same code and trained by the same commands as the relay world. Answers are
sentences drawn from one list; a short one has one to three, a long one four to six. The words of an answer are drawn alike for
both, so that the label is the length and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.recipes.worlds.relay_pairs import CritiquedPair, PairWorldSettings
from assay.records import PreferencePair, as_messages

SHORT, LONG = (1, 2, 3), (4, 5, 6)
"""Sentences of a short answer and of a long one."""
_THINGS = (
    "bag",
    "bed",
    "bell",
    "boat",
    "book",
    "boot",
    "bowl",
    "cake",
    "coat",
    "desk",
    "door",
    "drum",
    "flag",
    "fork",
    "lamp",
    "ring",
)
_SENTENCES = (
    "The {thing} is on the table.", "It was made last year.", "The colour is dark green.", "A friend of mine has one.",
    "It is not very heavy.", "You can find it in a shop.", "The price was fair.", "It stands beside the window.",
    "My uncle gave it to me.", "It works as it should.", "There is a mark on one side.", "I would not sell it.",
)  # fmt: skip


def brevity_pairs(settings: PairWorldSettings) -> Iterator[CritiquedPair]:
    """Pairs of a short and a long answer to one prompt; equal settings give equal pairs.

    lengths: not used but by the relay world. Every couple of a short and a long number of sentences is equally frequent up to one.
    tags: world, and twins (the prompt's number). The critique counts sentences, and says no verdict.
    """
    rng = np.random.default_rng([settings.seed, 4])
    for i in rng.permutation(settings.pairs):
        short, long = SHORT[i % 3], LONG[i // 3 % 3]
        thing = _THINGS[rng.integers(len(_THINGS))]
        answers = [
            " ".join(_SENTENCES[k].format(thing=thing) for k in rng.permutation(len(_SENTENCES))[:num]) for num in (short, long)
        ]
        pair = PreferencePair(
            prompt=as_messages(f"Tell me about your {thing}, number {i}. Keep it short: three sentences at most."),
            chosen=answers[0],
            rejected=answers[1],
            source=f"brevity:seed={settings.seed}",
            id=str(i),
            tags={"world": "brevity", "twins": str(i)},
        )
        counts = [f"The answer has {num} sentence{'s' if num > 1 else ''}." for num in (short, long)]
        yield CritiquedPair(pair, counts[0], counts[1], "The shorter of the two is the one to take.")
