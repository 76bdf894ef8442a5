"""A judge that grades each answer alone, by a rubric: `PointwiseJudge`.

Verdicts are read as text (with a reason, all criteria in one call or one call each, in k samples whose rewards are averaged), or
as the expected value over the tokens of each verdict. A criterion without a verdict leaves the whole without a reward, with the
reason.

Suffixes: N completions, K samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from assay.files import json_digest
from assay.generation.generator import Estimate, Generator
from assay.generation.replies import Answered, Ask, Features, Reply, Sampling, Unreadable
from assay.records import Completion, Rewards
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import NOT_APPLICABLE, Criterion, Rubric, Value
from assay.rubrics.rubric_file import rubric_from
from assay.scorers.base import Scope
from assay.scorers.judges.outside_shares import OutsideShares
from assay.scorers.judges.rule_parts import RuleParts, RuleRow, rule_lines, rules_of
from assay.scorers.judges.verdict_text import numbered_verdict, verdicts_in_json, whole_text
from assay.scorers.judges.verdict_tokens import masses_of
from assay.scorers.judges.wording import WORDING, Option, Question, options_of, pointwise_question, verdict_schema, why_unjudged

RUBRIC_FIELD = "rubric"  # of the ground truth: the criteria that a prompt brings
VERDICT_TOKENS = 16  # that an endpoint may write where the verdict is read by its tokens
TOLERANCE = {"torch.float32": 1e-3}  # of values in [0, 1] between two layouts of a batch; other formats round more
_HALF_TOLERANCE = 0.05


class _Plan(NamedTuple):
    """The calls of one completion, with what reads their replies; problem: why there are none."""

    rubric: Rubric
    calls: list[tuple[Ask, Callable[[Reply], Any]]]
    problem: str | None


class PointwiseJudge:
    """Rewards by a rubric and a language model. rules: computes the criteria that are rules.

    fingerprint: of model, rubric, wording and settings. std: of the rewards of k samples. text: what was said on each criterion.
    Raises ValueError for a rubric that this model cannot be asked by, EngineError for an endpoint that cannot be asked.
    """

    scope: Scope = "global"

    def __init__(
        self, generator: Generator, rubric: Rubric, *, settings: JudgeSettings | None = None, rules: RuleParts | None = None
    ) -> None:
        self.generator, self.rubric, self.rules = generator, rubric, rules or RuleParts()
        self.settings = settings or rubric.judge
        self.features = checked_features(generator, self.settings)
        self.by_token = self.settings.reading == "tokens"
        self._outside = OutsideShares()
        if self.by_token and self.settings.k > 1:
            raise ValueError(f'k = {self.settings.k}: probabilities are read once; give reading = "text" for samples with votes')
        for criterion in rubric.asked:
            options_of(criterion, by_token=self.by_token)
        prints = [self.rules.rule(criterion).fingerprint for criterion in rules_of(rubric)]
        self.fingerprint = judge_fingerprint("pointwise", generator, rubric, self.settings, prints)
        self.tolerance = judge_tolerance(generator)
        if generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def reads_ground_truth(self) -> bool:
        """Whether the reference is shown, the criteria come with the prompt, or a rule may read what is right."""
        return self.rubric.reads_ground_truth or self.rubric.per_row or bool(rules_of(self.rubric))

    @property
    def calls_per_answer(self) -> int:
        """Calls that one answer takes, without tries; of a rubric per row, that each call of it takes."""
        return max(1, len(self._parts(self.rubric))) * self.settings.k

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards of the rubric's formula, in [0, 1] for most."""
        items = list(completions)
        if not items:
            return Rewards(value=np.empty(0, np.float32), error=())
        plans = self._plans(items)
        rules = self._rule_values(items, plans)
        readers = {ask: read for plan in plans for ask, read in plan.calls}
        answered = self.generator.ask(list(readers), lambda ask, reply: readers[ask](reply))
        self._outside.take(answered)
        answer_of = dict(zip(readers, answered, strict=True))
        rows = [self._row(plan, [answer_of[ask] for ask, _ in plan.calls], known) for plan, known in zip(plans, rules, strict=True)]
        value, std, text, error = zip(*rows, strict=True)
        return Rewards(
            value=np.array(value, np.float32),
            std=np.array(std, np.float32) if self.settings.k > 1 else None,
            text=tuple(text),
            error=tuple(error),
        )

    def bill(self) -> str:
        """What this run's calls came to, in words."""
        return self.generator.bill.summary()

    def outside(self) -> str | None:
        """How much probability lay outside of the verdicts so far, in words; None of verdicts in text."""
        return self._outside.summary()

    def estimate(self, completions: Sequence[Completion]) -> Estimate:
        """What scoring these would cost, at most."""
        return self.generator.estimate([ask for plan in self._plans(list(completions)) for ask, _ in plan.calls])

    def _parts(self, rubric: Rubric) -> list[tuple[Criterion, ...]]:
        """The criteria of each call."""
        if not rubric.asked:
            return []
        each = self.by_token or self.settings.calls == "each"
        return [(criterion,) for criterion in rubric.asked] if each else [rubric.asked]

    def _plans(self, items: Sequence[Completion]) -> list[_Plan]:
        """The calls of each completion, sample by sample, with what reads their replies."""
        plans = []
        for item in items:
            rubric, problem = self.rubric, why_unjudged(item, reads_ground_truth=self.rubric.reads_ground_truth)
            if problem is None and rubric.per_row:
                rubric, problem = row_rubric(self.rubric, item)
                problem = problem or self._why_not(rubric)
            calls: list[tuple[Ask, Callable[[Reply], Any]]] = []
            for sample in range(self.settings.k if problem is None else 0):
                for criteria in self._parts(rubric):
                    as_json = self.features.schema
                    question = pointwise_question(rubric, criteria, item, by_token=self.by_token, as_json=as_json)
                    ask = self._ask(rubric, question, criteria, sample)
                    calls.append((ask, partial(self._read, criteria, question.options)))
            plans.append(_Plan(rubric, calls, problem))
        return plans

    def _why_not(self, rubric: Rubric) -> str | None:
        """Why the rubric of one prompt cannot be used."""
        try:
            for criterion in rubric.asked:
                options_of(criterion, by_token=self.by_token)
            for criterion in rules_of(rubric):
                self.rules.rule(criterion)
        except ValueError as error:
            return f"the rubric of this prompt cannot be used: {error}"
        return None

    def _rule_values(self, items: Sequence[Completion], plans: Sequence[_Plan]) -> list[RuleRow]:
        """The values of the criteria that are rules, of completions that can be judged; those of one rubric together."""
        found: list[RuleRow] = [{} for _ in items]
        by_rules: dict[tuple[Criterion, ...], list[int]] = {}
        for i, plan in enumerate(plans):
            if plan.problem is None and (named := rules_of(plan.rubric)):
                by_rules.setdefault(named, []).append(i)
        for named, places in by_rules.items():
            for i, values in zip(places, self.rules.values(named, [items[i] for i in places]), strict=True):
                found[i] = values
        return found

    def _ask(self, rubric: Rubric, question: Question, criteria: Sequence[Criterion], sample: int) -> Ask:
        settings = self.settings
        choices = tuple(option.spelled for option in question.options[criteria[0].name]) if self.by_token else ()
        schema = verdict_schema(criteria, question.options) if self.features.schema and not self.by_token else ""
        sampling = Sampling(
            temperature=settings.temperature,
            max_tokens=min(settings.max_tokens, VERDICT_TOKENS) if self.by_token else settings.max_tokens,
            seed=settings.seed,
            choices=choices,
            schema=schema,
        )
        return Ask(messages=question.messages, sampling=sampling, sample=sample, rubric=rubric.digest, shared=question.shared)

    def _read(self, criteria: Sequence[Criterion], options: Mapping[str, Sequence[Option]], reply: Reply) -> dict[str, Any]:
        """The verdict of one reply: criterion -> value, and how likely each choice was. Raises `Unreadable`."""
        if self.by_token:
            (criterion,) = criteria
            return {criterion.name: expected_value(criterion, options[criterion.name], reply)}
        text = whole_text(reply)
        spelled = [[option.spelled for option in options[criterion.name]] if criterion.options else [] for criterion in criteria]
        if self.features.schema:
            said = verdicts_in_json(text, spelled)
        else:
            numbers = [None] if len(criteria) == 1 else range(1, len(criteria) + 1)
            said = [numbered_verdict(text, names, number).choice for names, number in zip(spelled, numbers, strict=True)]
        return {
            one.name: {"value": _value(one, options[one.name], verdict), "said": verdict}
            for one, verdict in zip(criteria, said, strict=True)
        }

    def _row(self, plan: _Plan, answered: Sequence[Answered], rules: RuleRow) -> tuple[float, float, str | None, str | None]:
        """Value, std, text and error of one completion."""
        if plan.problem is not None:
            return math.nan, math.nan, None, plan.problem
        size = max(1, len(self._parts(plan.rubric)))
        samples = [answered[start : start + size] for start in range(0, len(answered), size)] or [()]
        outcomes = [_combined(plan.rubric, sample, rules) for sample in samples]
        values_K = np.array([value for value, _ in outcomes])
        text = _said(answered[:size], rules, by_token=self.by_token)
        is_read = np.isfinite(values_K)
        if 2 * is_read.sum() <= len(values_K):
            reason = next(error for value, error in outcomes if error is not None)
            of = f" ({int((~is_read).sum())} of {len(values_K)} samples)" if len(values_K) > 1 else ""
            return math.nan, math.nan, text, f"{reason}{of}"
        if not is_read.all():
            text = f"{text}\n({int(is_read.sum())} of {len(values_K)} samples could be read)"
        std = float(values_K[is_read].std(ddof=1)) if is_read.sum() > 1 else math.nan
        return float(values_K[is_read].mean()), std, text, None


def expected_value(criterion: Criterion, options: Sequence[Option], reply: Reply) -> dict[str, Any]:
    """The expected value over the verdict's tokens, as {"value", "p": label -> probability, "outside"}. Raises `Unreadable`.

    Where "does not apply" is likeliest the criterion does not apply; otherwise its mass is left out of the expectation.
    """
    masses = masses_of(reply, [option.spelled for option in options])
    likeliest = options[int(np.argmax(masses.choices))]
    shares = {option.label or NOT_APPLICABLE: mass for option, mass in zip(options, masses.choices, strict=True)}
    value: Value = NOT_APPLICABLE
    if likeliest.label:
        counted = [
            (mass, criterion.value_of(option.label)) for option, mass in zip(options, masses.choices, strict=True) if option.label
        ]
        total = math.fsum(mass for mass, _ in counted)
        value = min(1.0, math.fsum(mass * float(one) for mass, one in counted) / total)
    return {"value": value, "p": shares, "outside": masses.outside}


def row_rubric(rubric: Rubric, completion: Completion) -> tuple[Rubric, str | None]:
    """The rubric that a prompt brings in its ground truth, with the instructions of `rubric`; or that one, and why there is
    none."""
    content = (completion.ground_truth or {}).get(RUBRIC_FIELD)
    if content is None:
        return rubric, f"the criteria come with each prompt, and ground_truth has no {RUBRIC_FIELD!r}"
    try:
        own = rubric_from(content)
    except ValueError as error:
        return rubric, f"the rubric of this prompt cannot be read: {error}"
    instructions = rubric.instructions or own.instructions
    return replace(own, instructions=instructions, reads_ground_truth=rubric.reads_ground_truth), None


def checked_features(generator: Generator, settings: JudgeSettings) -> Features:
    """What the backend can do. Raises ValueError where the judge needs what it ignores, and EngineError where it cannot be
    asked."""
    features = generator.features()
    if settings.reading == "tokens" and not features.logprobs:
        raise ValueError(
            f'{generator.backend.model} gives no probabilities of tokens ({features.summary()}): give reading = "text" in '
            "[judge], or --judge-reading text"
        )
    return features


def judge_fingerprint(mode: str, generator: Generator, rubric: Rubric, settings: JudgeSettings, rules: Sequence[str] = ()) -> str:
    """Digest of all that decides a judge's rewards."""
    asked = [settings.calls, settings.reading, settings.k, settings.temperature, settings.seed, settings.max_tokens]
    return f"judge:{json_digest([mode, generator.backend.identity, rubric.digest, asked, WORDING, *rules])}"


def judge_tolerance(generator: Generator) -> float:
    """How far values may differ between two batches: 0 behind an endpoint, whose replies the ledger repeats."""
    causal = getattr(generator.backend, "causal", None)
    return 0.0 if causal is None else TOLERANCE.get(str(causal.dtype), _HALF_TOLERANCE)


def _combined(rubric: Rubric, sample: Sequence[Answered], rules: RuleRow) -> tuple[float, str | None]:
    values: dict[str, Value] = {}
    for one in sample:
        if one.error is not None:
            return math.nan, one.error
        values |= {name: entry["value"] for name, entry in one.verdict.items()}
    for name, (value, error) in rules.items():
        if error is not None:
            return math.nan, f"the rule {name!r}: {error}"
        values[name] = value
    combined = rubric.combine(values)
    return combined.value, combined.error


def _value(criterion: Criterion, options: Sequence[Option], verdict: str) -> Value:
    label = next((option.label for option in options if option.spelled == verdict), verdict)
    try:
        return criterion.value_of(label or criterion.not_applicable)
    except ValueError as error:
        raise Unreadable(str(error)) from None


def _said(answered: Sequence[Answered], rules: RuleRow, *, by_token: bool) -> str | None:
    """A critique: what was written, or each criterion with its value and the probabilities behind it."""
    lines = []
    for one in answered:
        if not by_token:
            lines += _written(one)
            continue
        for name, entry in (one.verdict or {}).items():
            shares = ", ".join(f"{label} {100 * share:.0f}%" for label, share in entry["p"].items())
            lines.append(f"{name}: {_figure(entry['value'])} ({shares}; {100 * entry['outside']:.0f}% said something else)")
    return "\n".join([*lines, *rule_lines(rules)]) or None


def _written(one: Answered) -> list[str]:
    """What a judge wrote, and each criterion by its name with value and verdict; in place of a JSON, its reasons behind them."""
    text = (one.reply.text or "").strip()
    reasons = _reasons(text)
    named = []
    for number, (name, entry) in enumerate((one.verdict or {}).items(), 1):
        reason = f": {reasons[str(number)]}" if reasons.get(str(number)) else ""
        named.append(f"{name}: {_figure(entry['value'])} ({entry['said']}){reason}")
    return named if named and reasons else [part for part in (text, *named) if part]


def _reasons(text: str) -> dict[str, str]:
    """The reasons of a reply that fits `verdict_schema`, by number; none of any other text."""
    try:
        content = json.loads(text) if text.startswith("{") else {}
    except ValueError:
        return {}
    return {number: str(entry.get("reason", "")).strip() for number, entry in content.items() if isinstance(entry, dict)}


def _figure(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
