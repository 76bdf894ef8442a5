"""`Rubric`: criteria, how they become one number, and how a judge is to be asked. No model and no torch.

    helpful = read_rubric("helpful.toml")                      # rubrics/rubric_file
    value = helpful.criterion("complete").value_of("yes")      # 1.0
    helpful.combine({"complete": value, "on topic": 0.5})      # Combined(value=..., error=None)

A value that is missing makes the whole NaN with a reason. A criterion that does not apply is left out of the formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from assay.files import json_digest
from assay.rubrics.formulas import Formula, Weighted, apply_formula, why_undefined
from assay.rubrics.judge_settings import JudgeSettings

Kind = Literal["binary", "choices", "scale", "rule"]

NOT_APPLICABLE: Final = "not applicable"
"""The value of a criterion that does not apply to an answer."""

Value: TypeAlias = float | str
"""A criterion's value: a number in [0, 1], 1 is best, or NOT_APPLICABLE."""

BUILT_IN_RULES = ("answer", "exact", "choice", "json-schema", "format", "constraints", "tests", "length")
"""What a criterion of the kind "rule" may name: a file never names code of its own."""


class Choice(NamedTuple):
    """A verdict that may be given: its label, its value in [0, 1], and what it means where the label does not say it."""

    label: str
    value: float
    text: str = ""


class Combined(NamedTuple):
    """The reward of an answer, NaN with the reason where it has none."""

    value: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that is asked of an answer.

    name: unique in its rubric. text: what the judge is asked. weight: points, may be negative for what is to be avoided.
    kind: "binary" (no, yes), "choices" (given from worst to best), "scale" (numbers from `low` to `high`), or "rule", a built-in
    rule that is checked by code.
    choices: of the kind "choices". low, high, anchors: of a scale, its ends and what numbers on it mean; whole_numbers: whether
    only whole numbers are on it. rule, settings: of a rule, its name and what it is given.
    gate: where the value is below it, the reward is no more than that value. needs: a criterion that must be met (value 1) for
    this one to count; otherwise its value is 0. not_applicable: what a judge says where the criterion does not apply, "" where it
    always does. negated: the value is 1 - what was given. is_optional: may fail under the formula required-pass. tags: labels of
    the data.
    Raises ValueError for fields that do not go together.
    """

    name: str
    text: str = ""
    weight: float = 1.0
    kind: Kind = "binary"
    choices: tuple[Choice, ...] = ()
    low: float = 1.0
    high: float = 5.0
    whole_numbers: bool = True
    anchors: Mapping[float, str] = field(default_factory=dict, hash=False)
    rule: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    gate: float | None = None
    needs: str = ""
    not_applicable: str = ""
    negated: bool = False
    is_optional: bool = False
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "tags", tuple(self.tags))
        object.__setattr__(self, "anchors", {float(number): text for number, text in self.anchors.items()})
        for name in ("weight", "low", "high"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if (why := self._mistake()) is not None:
            raise ValueError(f"criterion {self.name!r}: {why}" if self.name.strip() else why)

    def _mistake(self) -> str | None:
        """What is wrong with the fields, in order of who would notice first."""
        if not self.name.strip():
            return "a criterion has no name: give each one of its own"
        if self.kind not in get_args(Kind):
            return f"the kind {self.kind!r} is none of {', '.join(get_args(Kind))}"
        if not math.isfinite(self.weight):
            return f"weight {self.weight} must be finite"
        if self.gate is not None and not 0 < self.gate <= 1:
            return f"gate {self.gate:g} must be above 0 and at most 1: values are in [0, 1]"
        if self.kind == "rule":
            return self._rule_mistake()
        if self.rule or self.settings:
            return f"rule and settings are for the kind 'rule', and this is {self.kind!r}"
        if not self.text.strip():
            return "there is no text: say what the judge is to look for"
        if self.choices and self.kind != "choices":
            return f"choices are for the kind 'choices', and this is {self.kind!r}"
        if self.anchors and self.kind != "scale":
            return f"anchors are for the kind 'scale', and this is {self.kind!r}"
        return self._choices_mistake() if self.kind == "choices" else self._scale_mistake() if self.kind == "scale" else None

    def _rule_mistake(self) -> str | None:
        if self.rule not in BUILT_IN_RULES:
            return (
                f"{self.rule!r} is no built-in rule: use one of {', '.join(BUILT_IN_RULES)} (a rubric cannot name code of its own)"
            )
        if self.choices or self.anchors:
            return "a rule has no choices and no anchors: it is checked by code"
        return None

    def _choices_mistake(self) -> str | None:
        labels = [choice.label.strip().casefold() for choice in self.choices]
        if len(labels) < 2:
            return f"{len(labels)} choices: give at least two, from worst to best"
        if doubled := [choice.label for choice, label in zip(self.choices, labels, strict=True) if labels.count(label) > 1]:
            return f"the choice {doubled[0]!r} is given twice"
        if wrong := [choice for choice in self.choices if not (choice.label.strip() and 0 <= choice.value <= 1)]:
            return f"the choice {wrong[0].label!r} has the value {wrong[0].value}: a choice needs a label and a value in [0, 1]"
        if len({choice.value for choice in self.choices}) == 1:
            return "all choices have the same value, so that none would matter"
        return None

    def _scale_mistake(self) -> str | None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            return f"a scale from {self.low:g} to {self.high:g}: low must be below high"
        if self.whole_numbers and not (self.low.is_integer() and self.high.is_integer()):
            return f"a scale of whole numbers cannot end at {self.low:g} and {self.high:g}"
        if outside := [number for number in self.anchors if not self.low <= number <= self.high]:
            return f"the anchor {outside[0]:g} is not on the scale from {self.low:g} to {self.high:g}"
        return None

    @property
    def options(self) -> tuple[Choice, ...]:
        """The verdicts that a judge may give, from worst to best, as they are before `negated`: no and yes, the choices, the whole
        numbers of a scale with their anchors. Empty for a rule and a scale of any numbers."""
        match self.kind:
            case "binary":
                return Choice("no", 0.0), Choice("yes", 1.0)
            case "choices":
                return self.choices
            case "scale" if self.whole_numbers:
                numbers = range(int(self.low), int(self.high) + 1)
                return tuple(Choice(str(n), (n - self.low) / (self.high - self.low), self.anchors.get(n, "")) for n in numbers)
        return ()

    def value_of(self, verdict: bool | float | str) -> Value:
        """The value in [0, 1] of a verdict: a label of `options` (of any case), a number, a truth value; or NOT_APPLICABLE.

        Nothing is cut to the scale: 11 of 10 is no verdict. Raises ValueError that names the verdict and what may be given.
        """
        if isinstance(verdict, str) and self.not_applicable and _same(verdict, self.not_applicable, NOT_APPLICABLE):
            return NOT_APPLICABLE
        value = self._value_of(verdict)
        if value is None:
            named = [f"a number from {self.low:g} to {self.high:g}"] if self.kind == "scale" else [o.label for o in self.options]
            named = ["a number in [0, 1]"] if self.kind == "rule" else named
            known = " | ".join([*named, *([self.not_applicable] if self.not_applicable else [])])
            raise ValueError(f"the verdict of {self.name!r} is {verdict!r:.60}, and must be one of: {known}")
        return 1 - value if self.negated else value

    def _value_of(self, verdict: bool | float | str) -> float | None:
        if isinstance(verdict, str):
            if (found := next((option.value for option in self.options if _same(verdict, option.label)), None)) is not None:
                return found
            if self.kind == "binary":
                return {"true": 1.0, "false": 0.0}.get(verdict.strip().casefold())
            verdict = _number(verdict) if self.kind == "scale" else math.nan
        if isinstance(verdict, bool):
            return float(verdict) if self.kind in ("binary", "rule") else None
        match self.kind:
            case "scale" if self.low <= verdict <= self.high and (not self.whole_numbers or float(verdict).is_integer()):
                return (verdict - self.low) / (self.high - self.low)
            case "rule" if 0 <= verdict <= 1:
                return float(verdict)
            case "binary" if verdict in (0, 1):
                return float(verdict)
        return None

    def content(self) -> dict[str, Any]:
        """What the criterion is, for digests: the fields that are not as they are by default."""
        changed = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != _default(one)}
        if self.anchors:
            changed["anchors"] = {f"{number:g}": text for number, text in sorted(self.anchors.items())}
        return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """Criteria, the formula that makes one number of their values, and how a judge is asked.

    name: for titles. instructions: what a judge is told before the criteria. formula: see rubrics/formulas; threshold: of the
    formula of that name. per_row: the criteria come with each prompt (its column `rubric`), and there are none here.
    reads_ground_truth: whether the judge is shown the answer that is known to be right, which each prompt brings.
    Raises ValueError for no criteria, a name given twice, weights that leave the formula nothing to divide by, and a criterion that
    needs one that is missing or, through others, itself.
    """

    criteria: tuple[Criterion, ...] = ()
    name: str = ""
    instructions: str = ""
    formula: Formula = "points"
    threshold: float = 0.5
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    per_row: bool = False
    reads_ground_truth: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", tuple(self.criteria))
        if self.formula not in get_args(Formula):
            raise ValueError(f"formula {self.formula!r}: use one of {', '.join(get_args(Formula))}")
        if self.per_row and self.criteria:
            raise ValueError("per_row says that each prompt brings its own criteria: leave the criteria of the rubric out")
        if not self.per_row:
            self._check_criteria()

    def _check_criteria(self) -> None:
        names = [criterion.name for criterion in self.criteria]
        if not names:
            raise ValueError("the rubric has no criteria: give at least one")
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two criteria are called {doubled!r}: give each a name of its own")
        for criterion in self.criteria:
            if criterion.needs and criterion.needs not in names:
                raise ValueError(
                    f"criterion {criterion.name!r} needs {criterion.needs!r}, and there is none of that name in {names}"
                )
        try:
            self.in_order()
        except CycleError as error:
            raise ValueError(f"criteria need each other in a circle: {' -> '.join(map(str, error.args[1]))}") from None
        if (why := why_undefined(self.formula, [Weighted(c.weight, 1.0, c.is_optional) for c in self.criteria])) is not None:
            raise ValueError(f"{why} (formula {self.formula!r}): change the weights or the formula")

    def criterion(self, name: str) -> Criterion:
        """The criterion of that name. Raises KeyError naming the ones there are."""
        found = next((criterion for criterion in self.criteria if criterion.name == name), None)
        if found is None:
            raise KeyError(f"no criterion {name!r}; there are {[criterion.name for criterion in self.criteria]}")
        return found

    def in_order(self) -> Sequence[Criterion]:
        """The criteria, each behind the one that it needs."""
        by_name = {criterion.name: criterion for criterion in self.criteria}
        order = TopologicalSorter({c.name: [c.needs] if c.needs else [] for c in self.criteria}).static_order()
        return [by_name[name] for name in order]

    @property
    def asked(self) -> tuple[Criterion, ...]:
        """The criteria that a judge is asked; the others are rules."""
        return tuple(criterion for criterion in self.criteria if criterion.kind != "rule")

    def combine(self, values: Mapping[str, Value]) -> Combined:
        """One number from the criteria's values, each in [0, 1] or NOT_APPLICABLE.

        NaN with the reason where a value is missing (not there, NaN, outside of [0, 1]), where no criterion applies, and where
        those that apply leave the formula nothing to divide by. Raises ValueError for a name that the rubric does not have.
        """
        if unknown := sorted(values.keys() - {criterion.name for criterion in self.criteria}):
            raise ValueError(f"there is no criterion {unknown[0]!r} in the rubric: leave it out")
        counted: dict[str, Value] = {}
        for criterion in self.in_order():
            value = _counted(criterion, values, counted)
            if not isinstance(value, str) and not 0 <= value <= 1:
                given = values.get(criterion.name)
                what = "has no value" if given is None or given != given else f"has the value {given}, outside of [0, 1]"
                return Combined(math.nan, f"the criterion {criterion.name!r} {what}")
            counted[criterion.name] = value
        parts = [(c, value) for c in self.criteria if not isinstance(value := counted[c.name], str)]
        if not parts:
            return Combined(math.nan, "no criterion of the rubric applies")
        try:
            whole = apply_formula(self.formula, [Weighted(c.weight, value, c.is_optional) for c, value in parts], self.threshold)
        except ValueError as error:
            return Combined(math.nan, f"of the criteria that apply {error}")
        return Combined(min([whole, *(value for c, value in parts if c.gate is not None and value < c.gate)]))

    @property
    def digest(self) -> str:
        """Hash (32 hex digits) of what is asked and how it is combined; not of the name, nor of how a judge is asked."""
        whole = [self.instructions, self.formula, self.threshold, self.per_row, self.reads_ground_truth]
        return json_digest([[c.content() for c in self.criteria], *whole])


def _counted(criterion: Criterion, values: Mapping[str, Value], counted: Mapping[str, Value]) -> Value:
    """The value that counts: 0 where what the criterion needs is not met, not applicable where that is not."""
    needed = counted.get(criterion.needs, 1.0)
    if needed == NOT_APPLICABLE:
        return NOT_APPLICABLE
    if not isinstance(needed, str) and needed < 1:
        return 0.0
    value = values.get(criterion.name)
    if value is None or (isinstance(value, str) and not (value == NOT_APPLICABLE and criterion.not_applicable)):
        return math.nan
    return value


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _same(text: str, *labels: str) -> bool:
    return text.strip().casefold() in [label.strip().casefold() for label in labels]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
