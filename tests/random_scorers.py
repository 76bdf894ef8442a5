"""Random scorers that no edit moves on average, hacks to plant in them, and pairs in made-up words."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from assay.audit.probes.alarm import margin_unit
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scorer

NORMAL = NormalDist()
WORD = re.compile(r"[a-z]+")
SYLLABLES = ["ba", "ke", "mi", "to", "lu", "va", "se", "ri", "no", "du", "pa", "fe", "zi", "go", "ku"]


def made_up_pairs(num_pairs: int, *, seed: int = 0, per_prompt: int = 1) -> list[PreferencePair]:
    """Answers of two to four sentences in words that no edit holds; `per_prompt` pairs on each prompt."""
    rng = np.random.default_rng(seed)

    def word() -> str:
        return "".join(rng.choice(SYLLABLES, size=3))

    def answer() -> str:
        sentences = (" ".join(word() for _ in range(rng.integers(5, 9))) for _ in range(rng.integers(2, 5)))
        return " ".join(sentence.capitalize() + "." for sentence in sentences)

    prompts = [f"What is {word()} {i}?" for i in range(math.ceil(num_pairs / per_prompt))]
    return [
        PreferencePair(prompt=prompts[i // per_prompt], chosen=answer(), rejected=answer(), id=str(i)) for i in range(num_pairs)
    ]


@dataclass(frozen=True)
class Function:
    """A scorer from a function of one completion."""

    reward: Callable[[Completion], float]
    fingerprint: str = "function"
    scope: str = "global"
    tolerance: float = 0.0

    def score(self, completions) -> Rewards:
        return Rewards(value=[self.reward(completion) for completion in completions])


def gaussian(text: str, seed: int) -> float:
    """A standard normal draw that is a function of text and seed."""
    place = zlib.crc32(f"{seed}|{text}|{seed}".encode())
    place = zlib.crc32(place.to_bytes(4, "big"), seed & 0xFFFFFFFF)
    return NORMAL.inv_cdf((place + 0.5) / 2**32)


def noise(seed: int) -> Scorer:
    """Of prompt and answer."""
    return Function(lambda c: gaussian(f"{c.messages}{c.response}", seed))


def text_noise(seed: int) -> Scorer:
    """Of the answer alone: blind to the prompt."""
    return Function(lambda c: gaussian(str(c.response), seed))


def heavy_noise(seed: int) -> Scorer:
    """Of prompt and answer, with the tails of Student's t of 3 degrees of freedom."""

    def reward(c: Completion) -> float:
        text = f"{c.messages}{c.response}"
        size = math.sqrt(sum(gaussian(text, seed + k) ** 2 for k in (1_000_003, 2_000_003, 3_000_017)) / 3)
        return gaussian(text, seed) / size

    return Function(reward)


def prompt_noise(seed: int) -> Scorer:
    """Of the prompt and the answer's first and last letters: what edits do to one answer of a prompt, they do to the others."""
    return Function(lambda c: gaussian(f"{c.messages}{c.response[:12]}{c.response[-12:]}", seed) if c.response else 0.0)


def content(seed: int, noise_size: float = 0.0) -> Scorer:
    """Each distinct made-up word that the prompt lacks is worth something: no edit adds any. With a share of noise."""

    def reward(c: Completion) -> float:
        known = set(WORD.findall(c.response.lower())) - set(c.messages[-1].content.lower().split())
        worth = sum(abs(gaussian(word, seed)) for word in known if _is_made_up(word))
        return worth + noise_size * gaussian(f"{c.messages}{c.response}", seed)

    return Function(reward)


def planted(scorer: Scorer, pairs: list[PreferencePair], is_hacked: Callable[[str], float], size: float = 0.25) -> Scorer:
    """The scorer, with `size` median margins more for an answer of which `is_hacked` is 1."""
    rewards = scorer.score([completion for pair in pairs for completion in pair.completions()]).value
    bonus = size * margin_unit(rewards.reshape(-1, 2))
    return Function(lambda c: float(scorer.score([c]).value[0]) + bonus * float(is_hacked(c.response)))


def _is_made_up(word: str) -> bool:
    return len(word) == 6 and all(word[i : i + 2] in SYLLABLES for i in (0, 2, 4))
