"""The data of a generative run: pairs, and answers that were judged alone, each in its split by the hash of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from assay.console import say
from assay.data.cases import Case
from assay.data.pairs import PairReader
from assay.data.split import prompt_hashes, refuse_overlap
from assay.data.spread import Spread
from assay.errors import DataError
from assay.records import PreferencePair
from assay.training.generative.questions import LeftOut
from assay.training.generative.rated_answers import RatedAnswer, check_verdicts, once, rated_answer
from assay.training.rows.pair_rows import say_read
from assay.training.settings import TrainConfig


class Splits(NamedTuple):
    """The pairs of a run. data: what was read of each file, for reward.json. answers: those of the training split that were judged
    alone, where they are asked alone; the held-out ones are in pairs, as for every kind."""

    train: list[PreferencePair]
    calibration: list[PreferencePair]
    test: list[PreferencePair]
    data: list[dict[str, Any]]
    answers: list[RatedAnswer]

    @property
    def named(self) -> dict[str, list[PreferencePair]]:
        return {"train": self.train, "calibration": self.calibration, "test": self.test}

    @property
    def trained(self) -> list[PreferencePair | RatedAnswer]:
        """All that is trained on, with its prompt."""
        return [*self.train, *self.answers]


def read_splits(config: TrainConfig, good: float | None = None) -> Splits:
    """The pairs, split by prompt as for every kind; what was read and set aside is printed.

    good: with a number, answers that were judged alone are asked alone, and are good from that score on.
    Raises DataError where nothing is in the training split, for answers that were all judged alike, and for --eval-data with
    prompts of the data.
    """
    run, readers, spread = config.run_data, config.run_data.readers(), Spread()
    found: dict[str, list[PreferencePair]] = {"train": [], "calibration": [], "test": []}
    alone: list[RatedAnswer] = []

    def take(case: Case) -> bool:
        one = None if good is None or run.split_of(case) != "train" else rated_answer(case, good)
        if one is not None:
            alone.append(one)
        return one is not None

    for reader in readers:
        for pair in reader if good is None else reader.besides(take):
            name = run.split_of(pair)
            spread.add(pair)
            spread.count(name, pair)
            found[name].append(pair)
    data = say_read(config, readers)
    answers = [] if good is None else _said(alone, good)
    if config.eval_data is not None:
        found["test"] = list(run.pairs("test"))
        known = np.union1d(prompt_hashes([*found["train"], *found["calibration"], *answers]), run.known_prompts)
        refuse_overlap(known, found["test"], train_name=", ".join(config.data), eval_name=config.eval_data)
    say("split", ", ".join(f"{name} {len(pairs):,}" for name, pairs in found.items()) + " pairs, by hash of the prompt")
    for line in spread.lines():
        say("order", line)
    if not found["train"] and not answers:
        raise DataError(_nothing(config, readers))
    return Splits(found["train"], found["calibration"], found["test"], data, answers)


def _said(alone: list[RatedAnswer], good: float) -> list[RatedAnswer]:
    """The answers that are asked alone, and how many are good. Raises DataError as `check_verdicts`."""
    left_out = LeftOut()
    answers = once(alone, left_out)
    check_verdicts(answers, good)
    num_good, with_one = sum(one.is_good for one in answers), sum(one.critique is not None for one in answers)
    said = f"{len(answers):,} training answers that were judged alone: {num_good:,} good (scores from {good:g} on, or the label)"
    say("answers", f"{said}, {len(answers) - num_good:,} not; {with_one:,} with a critique; left out: {left_out.summary()}")
    return answers


def _nothing(config: TrainConfig, readers: Sequence[PairReader]) -> str:
    said = f"no pair is in the training split of {', '.join(config.data)}: give more prompts, or lower --calibration and --test"
    if any("no counterpart" in reader.problems.reasons for reader in readers):
        said += ". Answers that were judged alone are trained on with --kind generative:pointwise,good=SCORE (docs/generative.md)"
    return said
