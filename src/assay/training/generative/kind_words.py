"""What stands behind `--kind generative:`: the form, whether a critique is written, and the stages of training.

generative:pairwise,critique,star=4,dpo        generative:pointwise,direct        generative:answers=0.1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

KIND = "generative"
Form = Literal["pairwise", "pointwise"]
Stage = Literal["sft", "star", "dpo"]
SAMPLES = 4  # critiques of a question that are sampled where the words do not say how many
BETA = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerativeKind:
    """How a model that writes is trained.

    form: two answers and A or B, or one answer and Yes or No. critique: whether one is written, None for as the rows have them.
    star: critiques that are sampled for each question, of which those with the right verdict are trained on; 0 for no such
    stage. keep: how many of a question at most. hint: where none was right, sample again with the verdict told. dpo: beta of a
    last stage of right against wrong critiques of one question; 0 for none. answers: weight of training on the right answers
    themselves (GenRM's lambda). verdict: how often a token of the verdict counts in the loss of fine-tuning. tokens: of a critique
    at most, None for as the rows have them. orders: in which two answers are shown in training. judged: held-out pairs at most that
    each stage is measured on. good: the score from which on an answer that was judged alone is good, and such answers are asked
    alone; None for in pairs, as they are read.
    """

    form: Form = "pairwise"
    critique: bool | None = None
    star: int = 0
    keep: int = 2
    hint: bool = False
    dpo: float = 0.0
    answers: float = 0.0
    verdict: float = 1.0
    tokens: int | None = None
    orders: Literal[1, 2] = 2
    judged: int = 200
    good: float | None = None

    def __post_init__(self) -> None:
        if self.critique is False and (self.star or self.dpo or self.hint):
            raise ValueError(f"--kind {KIND}:direct has no critiques to sample: leave star, hint and dpo out, or say critique")
        if self.hint and not self.star:
            raise ValueError(f"--kind {KIND}:hint goes with star: add star={SAMPLES}")
        if self.good is not None and self.form != "pointwise":
            raise ValueError(f"--kind {KIND}:good={self.good:g} is of single answers: say pointwise,good={self.good:g}")
        if self.star == 1 and self.dpo:
            raise ValueError(f"--kind {KIND}:star=1,dpo: one critique of a question is never right and wrong: give star=2 or more")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in their order."""
        return ("sft", *(("star",) if self.star else ()), *(("dpo",) if self.dpo else ()))  # type: ignore[return-value]

    @property
    def samples(self) -> int:
        """Critiques that are sampled for each question."""
        return self.star or SAMPLES


class _Word(NamedTuple):
    """What a word sets. bare: the value without a number, None where it needs one. read: the value of what stands behind =, None
    where nothing may."""

    field: str
    bare: Any = None
    read: Callable[[str], Any] | None = None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("a whole number of at least 1")
    return int(text)


def _weight(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError("a number above 0")
    return number


def _score(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


_WORDS = {
    "pairwise": _Word("form", "pairwise"),
    "pointwise": _Word("form", "pointwise"),
    "critique": _Word("critique", True),
    "direct": _Word("critique", False),
    "star": _Word("star", SAMPLES, _count),
    "keep": _Word("keep", None, _count),
    "hint": _Word("hint", True),
    "dpo": _Word("dpo", BETA, _weight),
    "answers": _Word("answers", None, _weight),
    "verdict": _Word("verdict", None, _weight),
    "tokens": _Word("tokens", None, _count),
    "orders": _Word("orders", None, lambda text: {"1": 1, "2": 2}[text]),
    "judged": _Word("judged", None, _count),
    "good": _Word("good", None, _score),
}


def is_written(kind: str) -> bool:
    """Whether `--kind` names this kind of training."""
    return kind.partition(":")[0] == KIND


def read_kind(kind: str) -> GenerativeKind:
    """`GenerativeKind` of the words behind `generative:`. Raises ValueError, naming the word and what there is."""
    given: dict[str, Any] = {}
    for text in filter(None, kind.partition(":")[2].split(",")):
        name, has_value, value = text.partition("=")
        if name not in _WORDS:
            raise ValueError(f"--kind {KIND}:{text} is not known: use {', '.join(_WORDS)} (docs/generative.md)")
        word = _WORDS[name]
        if word.field in given:
            raise ValueError(f"--kind {kind}: {name} says {word.field} a second time: give it once")
        if has_value and word.read is None:
            raise ValueError(f"--kind {KIND}:{text}: nothing stands behind {name}")
        if not has_value and word.bare is None:
            raise ValueError(f"--kind {KIND}:{name} needs a number, as in {name}=2")
        try:
            given[word.field] = word.read(value) if has_value and word.read is not None else word.bare
        except (ValueError, KeyError) as error:
            why = "1 or 2" if isinstance(error, KeyError) else "a number" if "convert" in str(error) else str(error)
            raise ValueError(f"--kind {KIND}:{text}: {name} must be {why}") from None
    return GenerativeKind(**given)


def kind_text(kind: GenerativeKind) -> str:
    """The kind with everything that is not as usual, for reports."""
    usual = GenerativeKind()
    said = {one.name: getattr(kind, one.name) for one in fields(kind) if getattr(kind, one.name) != getattr(usual, one.name)}
    said.pop("form", None)
    critique = said.pop("critique", None)
    words = [kind.form, *([] if critique is None else ["critique" if critique else "direct"])]
    words += [name if value is True else f"{name}={value:g}" for name, value in said.items()]
    return ",".join(words)
