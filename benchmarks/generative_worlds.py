"""The made pairs of benchmarks/generative.py: of one seed to train and to test on, as each arm sees them, and their tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
from assay.data.pairs import write_pairs
from assay.models.bases import load_tokenizer
from assay.recipes.worlds.relay_pairs import CritiquedPair, PairWorldSettings, relay_pairs
from assay.records import PreferencePair

SCALAR, DIRECT, CRITIQUE, HALF, STAR, GRM, READS = (
    "scalar",
    "direct",
    "critique",
    "critique, half of the chains",
    "star, half of the chains",
    "grm",
    "scalar reads the true chain",
)
ARMS = (CRITIQUE, SCALAR, DIRECT, READS, HALF, STAR, GRM)
GENERATIVE = {DIRECT: "direct", CRITIQUE: "critique", HALF: "critique", STAR: "critique,star=2"}
FORM_TOKENS = 60  # around question and answer, of what a generative model is asked


@dataclass(frozen=True, kw_only=True)
class RelaySettings:
    """What decides a figure. pairs: to train on; test_pairs: of each number of passes; other_names: the same, with names that
    training lacks. scalars: tries of params@depth[@rate], of which dev_pairs held-out ones choose; each is given at least the
    tokens of the critique arm. verdict: how often a verdict's token counts in the loss of critiques. judged: held-out pairs that
    `assay train` measures a model that writes on. extra: further words for each."""

    base: str
    pairs: int = 160
    lengths: tuple[int, ...] = (1, 2, 3)
    test_lengths: tuple[int, ...] = (1, 2, 3, 4, 5)
    test_pairs: int = 60
    other_names: int = 20
    dev_pairs: int = 60
    epochs: int = 1
    params: str = "full"
    learning_rate: float = 3e-4
    batch: int = 8
    verdict: float = 10.0
    scalars: tuple[str, ...] = ("full@full@3e-4", "full@full@5e-5", "full@20@1e-4")
    judged: int = 4
    control_pairs: int = 200
    control_test: int = 140
    dtype: str = "auto"
    priced_as: tuple[str, str] = ("gpt-4o-mini", "https://api.openai.com/v1")
    extra: tuple[str, ...] = ()


class World(NamedTuple):
    """Made pairs of one seed: to train on, to choose among scalar tries, and to test on by the name of the test."""

    train: list[CritiquedPair]
    dev: list[CritiquedPair]
    tests: dict[str, list[CritiquedPair]]


def relay_of_seed(settings: RelaySettings, seed: int) -> World:
    """Pairs to train on, and others of other seeds: by number of passes with the same names, and with names that training lacks."""
    world = PairWorldSettings(pairs=settings.pairs, lengths=settings.lengths, seed=1000 + seed)
    tests = {}
    for passes in settings.test_lengths:
        one = replace(world, pairs=settings.test_pairs, lengths=(passes,), seed=3000 + 10 * seed + passes)
        tests[f"{passes}"] = list(relay_pairs(one))
        if settings.other_names:
            other = replace(one, pairs=settings.other_names, names="second", seed=6000 + 10 * seed + passes)
            tests[f"{passes}, other names"] = list(relay_pairs(other))
    dev = replace(world, pairs=settings.dev_pairs, seed=2000 + seed)
    return World(list(relay_pairs(world)), list(relay_pairs(dev)), tests)


def control_of_seed(settings: RelaySettings, make: Callable[[PairWorldSettings], Iterator[CritiquedPair]], seed: int) -> World:
    """The same of a control: one pass, or answers of which the shorter one is right."""
    world = PairWorldSettings(pairs=settings.control_pairs, lengths=(1,), seed=1000 + seed)
    test, dev = (
        replace(world, pairs=settings.control_test, seed=3000 + seed),
        replace(world, pairs=settings.dev_pairs, seed=2000 + seed),
    )
    return World(list(make(world)), list(make(dev)), {"test": list(make(test))})


def write(path: Path, arm: str, made: Sequence[CritiquedPair]) -> None:
    """The pairs of an arm, with the critiques that it may see beside them: all, none, or those of every other twins."""
    columns = {one.pair.id: one.columns for one in made}

    def beside(pair: PreferencePair) -> Mapping[str, str]:
        is_half = arm in (HALF, STAR) and int(pair.tags["twins"]) % 2 == 1
        return {} if is_half or arm == DIRECT or arm not in GENERATIVE else columns[pair.id]

    path.parent.mkdir(parents=True, exist_ok=True)
    write_pairs(path, seen_pairs(arm, made), beside=beside)


def seen_pairs(arm: str, made: Sequence[CritiquedPair]) -> list[PreferencePair]:
    """As they are; in the arm that reads the true chain it stands behind each answer."""
    if arm != READS:
        return [one.pair for one in made]
    return [replace(one.pair, chosen=f"{one.pair.chosen} {one.both}", rejected=f"{one.pair.rejected} {one.both}") for one in made]


def critique_tokens(base: str, made: Sequence[CritiquedPair], *, critiques: bool = True) -> int:
    """Tokens that a generative model is trained on in an epoch: each answer is a conversation of its own."""
    total = 0
    for one in made:
        prompt = count(base, one.pair.prompt[0].content) + FORM_TOKENS
        answers = count(base, one.pair.chosen) + count(base, one.pair.rejected)
        total += 2 * prompt + answers + (count(base, one.chosen) + count(base, one.rejected) if critiques else 0)
    return total


def scalar_tokens(base: str, pairs: Sequence[PreferencePair]) -> int:
    """Tokens that a scalar model is trained on in an epoch: the prompt stands once, the answers branch off it."""
    return sum(count(base, one.prompt[0].content) + count(base, one.chosen) + count(base, one.rejected) + 30 for one in pairs)


def epochs_of(settings: RelaySettings, arm: str, made: Sequence[CritiquedPair]) -> int:
    """Passes that give an arm at least the tokens that the critique arm is trained on."""
    budget = settings.epochs * critique_tokens(settings.base, made)
    if arm in (CRITIQUE, HALF, STAR):
        return settings.epochs
    own = (
        critique_tokens(settings.base, made, critiques=False)
        if arm == DIRECT
        else scalar_tokens(settings.base, seen_pairs(arm, made))
    )
    return math.ceil(budget / own)


@cache
def _tokenizer(base: str) -> Any:
    return load_tokenizer(base)[1]


@cache
def count(base: str, text: str) -> int:
    """Tokens of a text."""
    return len(_tokenizer(base)(text, add_special_tokens=False)["input_ids"])
