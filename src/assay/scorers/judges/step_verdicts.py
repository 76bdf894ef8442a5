"""Process models that write what they think of each step, with a verdict in a \\boxed{}: GenPRM and ThinkPRM.

GenPRM is asked for one paragraph after the other, each in a turn of its own; ThinkPRM for the whole solution at once, and what it
thinks is its verification. The last verdict on a step counts, outside of quotations and code. A step without one has no value, with
the reason. Code that a reply holds is never run: what it writes as the output of its code is its own guess. Suffix: S steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

from assay.console import say
from assay.data.steps.step_layouts import cut_at_lines
from assay.files import json_digest
from assay.generation.generator import Generator
from assay.generation.replies import Answered, Ask, Reply, Sampling, Unreadable
from assay.messages import Message
from assay.models.published.published_steps import StepsAsked, WrittenForm
from assay.records import Completion, Dtype, Rewards
from assay.rubrics.judge_settings import JudgeSettings
from assay.scorers.base import Scope
from assay.scorers.judges.open_judge import generator_of, merged_settings
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.judges.pointwise import judge_tolerance
from assay.scorers.judges.verdict_text import outside_of_quotes, whole_text
from assay.scorers.judges.verdict_tokens import masses_at, masses_of
from assay.scorers.steps.step_values import said_of_reduction
from assay.stats.steps.step_meaning import StepMeaning
from assay.stats.steps.step_reductions import reduce_values

REPLY_TOKENS = {"each step": 2048, "whole solution": 4096}
# Our own words, where the publisher's are not given.
INSTRUCTIONS = {
    "genprm": (
        "Each message is a paragraph of a solution, the first with its problem before it. Check the paragraph: explain what it "
        "does, test it, and end with \\boxed{Yes} if it is right or \\boxed{No} if it is wrong."
    ),
    "thinkprm": (
        "Below are a problem and a solution in steps. Check one step after the other, and end what you say of a step with "
        "\\boxed{correct} or \\boxed{incorrect}; stop behind the first step that is wrong.\n\n"
        "Problem:\n{{ problem }}\n\nSolution:\n{{ solution }}"
    ),
}
_DEADLINE = 600.0  # seconds of one reply: thousands of tokens
_TAGS = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_HEADING = re.compile(r"^[ \t*#_>(-]*step[ \t]+(\d+)\b", re.IGNORECASE | re.MULTILINE)


class Verdict(NamedTuple):
    """A verdict in a reply: one of the form's two words, and where the word begins in the reply's text."""

    word: str
    offset: int


@dataclass(slots=True)
class _Course:
    """How far one solution is: the steps that are asked about, the turns so far, a value and a reason for each of all its
    steps, and what was written."""

    steps: tuple[str, ...]
    turns: list[Message]
    values: list[float]
    reasons: list[str | None]
    replies: list[str]


class StepVerdicts:
    """Scores steps by a language model that writes. `Rewards.text` is what it wrote.

    A step's value is the probability of the good word among the two at its verdict, where probabilities are to be had, else 1 or 0.
    instruction: the system turn (a form that is asked step by step), or a template of the message with {{ problem }} and
    {{ solution }}; our own words when left out. Raises ValueError for an instruction that is no template.
    """

    scope: Scope = "global"

    def __init__(
        self,
        generator: Generator,
        form: WrittenForm,
        asked: StepsAsked = StepsAsked(),  # noqa: B008  (immutable)
        *,
        instruction: str | None = None,
    ) -> None:
        self.generator, self.form, self.asked = generator, form, asked
        self.reduction = asked.reduction or form.reduction
        self.instruction = INSTRUCTIONS[form.name] if instruction is None else instruction
        try:
            self._template = ImmutableSandboxedEnvironment().from_string(self.instruction)
        except jinja2.TemplateError as error:
            raise ValueError(f"template={asked.template}: it is no Jinja template ({error})") from error
        self.choices = (form.good, form.bad)
        self._is_local = hasattr(generator.backend, "causal")
        self._has_probabilities = generator.features().logprobs
        written = self._has_probabilities and not self._is_local
        self._sampling = Sampling(max_tokens=asked.max_length or REPLY_TOKENS[form.asks], choices=self.choices if written else ())
        parts = [generator.backend.identity, form.name, self.instruction, self._sampling.as_text(), self.reduction]
        self.fingerprint = f"judge:{json_digest(['steps', *parts])}"
        self.tolerance = judge_tolerance(generator)
        own = f"our own words; {form.prompt}: give it with template=FILE"
        self.assumed = {
            "form": f"#{form.name}, {form.source}",
            "steps": f"{form.asks}; the last \\boxed{{}} on a step counts; a paragraph a step where an answer has none",
            "template": own if instruction is None else str(asked.template or "as given"),
            "value": f"P({form.good}) of the two words at the verdict"
            if self._has_probabilities
            else "1 or 0, as the verdict says",
            "code": "what a reply writes as code is not run",
            "reduction": said_of_reduction(self.reduction, form),
        }
        if generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def step_threshold(self) -> float:
        """Above it a step is taken for right."""
        return self.form.threshold

    @property
    def step_meaning(self) -> StepMeaning:
        """Probabilities as they are."""
        return StepMeaning(False, 1.0, 0.0, self.form.threshold)

    def step_probability(self, rewards_S: np.ndarray) -> np.ndarray:
        """P(right) of steps: their values."""
        return np.asarray(rewards_S, np.float64)

    def bill(self) -> str:
        """What this run's calls came to, in words."""
        return self.generator.bill.summary()

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N solutions -> N rewards with their steps and what was written of them."""
        problems = [why_not(item) for item in completions]  # an empty step leaves those before it
        courses = [self._begun(item, problem) for item, problem in zip(completions, problems, strict=True)]
        open_ones = [course for course, problem in zip(courses, problems, strict=True) if problem is None]
        if self.form.asks == "each step":
            self._ask_steps(open_ones)
        else:
            self._ask_whole(open_ones)
        value = [self._value(course) for course in courses]
        errors = [
            problem or (_first_reason(course) if math.isnan(one) else None)
            for problem, course, one in zip(problems, courses, value, strict=True)
        ]
        steps = tuple(np.array(course.values, np.float32) for course in courses)
        text = tuple("\n\n".join(course.replies) or None for course in courses)
        return Rewards(value=np.array(value, np.float32), steps=steps, text=text, error=tuple(errors))

    def _begun(self, item: Completion, problem: str | None) -> _Course:
        all_steps = steps_of(item)
        num_all, blank = len(all_steps), _first_blank(all_steps)
        steps = all_steps[:blank]
        turns: list[Message] = []
        if problem is None and self.form.asks == "each step" and self.instruction:
            turns = [Message("system", self._template.render(problem=item.messages[0].content))]
        elif problem is None and self.form.asks == "whole solution":
            numbered = "\n".join(f"Step {k}: {step.strip()}" for k, step in enumerate(steps, start=1))
            turns = [Message("user", self._template.render(problem=item.messages[0].content, solution=numbered, steps=steps))]
        if problem is None and self.form.asks == "each step":
            steps = (f"{item.messages[0].content}\n{steps[0].strip()}", *(step.strip() for step in steps[1:]))
        lost = f"step {len(steps) + 1} is empty: leave it out, or join it to its neighbour"
        return _Course(steps, turns, [math.nan] * num_all, [None] * len(steps) + [lost] * (num_all - len(steps)), [])

    def _ask_steps(self, courses: Sequence[_Course]) -> None:
        """One turn a step: the k-th steps of all solutions are asked about together."""
        for k in range(max((len(course.steps) for course in courses), default=0)):
            here = [course for course in courses if k < len(course.steps) and len(course.replies) == k]
            for course in here:
                course.turns.append(Message("user", course.steps[k]))
            for course, one in zip(here, self._replies(here), strict=True):
                if one.reply.text is None:  # nothing was said, so that what follows cannot be asked
                    course.reasons[k:] = [f"step {k + 1}: {one.error}"] * (len(course.values) - k)
                    continue
                course.replies.append(one.reply.text)
                if one.error is not None:
                    course.reasons[k] = f"step {k + 1}: {one.error}"
                else:
                    self._take(course, {k: last_verdict(one.reply.text, self.choices)}, one.reply)
                course.turns.append(Message("assistant", one.reply.text))

    def _ask_whole(self, courses: Sequence[_Course]) -> None:
        for course, one in zip(courses, self._replies(courses), strict=True):
            course.replies += [one.reply.text] if one.reply.text is not None else []
            if one.error is not None:
                course.reasons[: len(course.steps)] = [one.error] * len(course.steps)
                continue
            found = self._verdicts(one.reply, len(course.steps))
            ended = " before it was cut off: raise max_length" if one.reply.finish == "length" else ""
            course.reasons[: len(course.steps)] = [
                None if k in found else f"the reply has no verdict on step {k + 1}{ended}" for k in range(len(course.steps))
            ]
            self._take(course, found, one.reply)

    def _replies(self, courses: Sequence[_Course]) -> list[Answered]:
        asks = [Ask(messages=tuple(course.turns), sampling=self._sampling, rubric=self.fingerprint) for course in courses]
        num_steps = {ask: len(course.steps) for ask, course in zip(asks, courses, strict=True)}
        return self.generator.ask(asks, lambda ask, reply: self._checked(reply, num_steps[ask]))

    def _checked(self, reply: Reply, num_steps: int) -> str:
        """The reader of a reply: it must hold a verdict. Raises `Unreadable`."""
        if self.form.asks == "each step":
            return last_verdict(whole_text(reply), self.choices).word
        return " ".join(found.word for found in self._verdicts(reply, num_steps).values())

    def _verdicts(self, reply: Reply, num_steps: int) -> dict[int, Verdict]:
        """The verdicts of one reply on a whole solution. Of one that was cut off those on the steps before the last it came to: its
        verdict might still have changed. Raises `Unreadable` where there is none."""
        text = _TAGS.sub(_blank, reply.text or "")
        if reply.finish != "length":
            return verdicts_on_steps(whole_text(reply._replace(text=text)), self.choices, num_steps)
        try:
            found = verdicts_on_steps(text, self.choices, num_steps)
        except Unreadable:
            found = {}
        come_to = [int(place[1]) - 1 for place in _HEADING.finditer(outside_of_quotes(text))] or [*found]
        done = {k: verdict for k, verdict in found.items() if k < come_to[-1]}
        if not done:
            whole_text(reply)  # raises: it was cut off
        return done

    def _take(self, course: _Course, found: dict[int, Verdict], reply: Reply) -> None:
        """Put the values of verdicts into a solution: probabilities where they can be read, else 1 or 0."""
        shares: dict[int, float] = {}
        if self._is_local:
            shares = self._shares_behind(course, found, str(reply.text))
        elif reply.tokens:
            for k, verdict in found.items():
                try:
                    shares[k] = masses_at(reply, verdict.offset, self.choices).choices[0]
                except Unreadable:
                    continue
        for k, verdict in found.items():
            course.values[k] = shares.get(k, float(verdict.word == self.form.good))

    def _shares_behind(self, course: _Course, found: dict[int, Verdict], text: str) -> dict[int, float]:
        """P(good) of the two words where each verdict stands, read behind what was written up to there."""
        sampling = replace(self._sampling, choices=self.choices)
        asks = {
            k: Ask(
                messages=(*course.turns, Message("assistant", text[: verdict.offset])), sampling=sampling, rubric=self.fingerprint
            )
            for k, verdict in found.items()
        }
        read = self.generator.ask(list(asks.values()), lambda ask, reply: masses_of(reply, self.choices).choices[0])
        return {k: float(one.verdict) for k, one in zip(asks, read, strict=True) if one.error is None}

    def _value(self, course: _Course) -> float:
        """The reduction of all steps; of a reply on the whole solution, up to the first step that is judged wrong."""
        values_S = np.array(course.values, np.float32)
        if self.form.asks == "whole solution":
            wrong = np.flatnonzero(values_S <= self.form.threshold)
            values_S = values_S[: wrong[0] + 1] if len(wrong) else values_S
        return reduce_values(values_S, self.reduction)


def why_not(item: Completion) -> str | None:
    """Why a completion cannot be asked about."""
    if item.response is None:
        return "steps are asked about in messages and response: this completion was rendered already"
    if item.tools or item.response_message is not None:
        return "this model's form has no place for tools, tool calls and reasoning"
    if [turn.role for turn in item.messages] != ["user"]:
        return "this model's form has one question and no other turn: leave them out"
    steps = steps_of(item)
    if not steps:
        return "there are no steps: the response is empty"
    if "".join(steps) != item.response:
        return "the steps, joined, are not the response"
    return "step 1 is empty: leave it out, or join it to its neighbour" if _first_blank(steps) == 0 else None


def _first_blank(steps: Sequence[str]) -> int:
    """How many steps stand before the first empty one."""
    return next((k for k, step in enumerate(steps) if not step.strip()), len(steps))


def steps_of(item: Completion) -> tuple[str, ...]:
    """The completion's own steps, or its response cut into paragraphs."""
    if item.steps is not None:
        return item.steps
    return cut_at_lines(item.response, "blank line") if item.response and item.response.strip() else ()


def last_verdict(text: str, choices: Sequence[str]) -> Verdict:
    """The last whole \\boxed{} that holds one of the words, outside of thoughts, quotations and code. Raises `Unreadable`."""
    found = _boxed(outside_of_quotes(text), choices)
    if not found:
        raise Unreadable(f"the reply has no \\boxed{{{choices[0]}}} or \\boxed{{{choices[1]}}} outside of its thoughts")
    return found[-1]


def verdicts_on_steps(text: str, choices: Sequence[str], num_steps: int) -> dict[int, Verdict]:
    """Step (from 0) -> the last verdict on it. What stands behind a line "Step k" is on step k; without such lines, the verdicts
    are on the steps in order. Thoughts count: they are the verification.

    Raises `Unreadable` where there is none, where there are more of them than steps, or one on a step that there is not.
    """
    masked = outside_of_quotes(_TAGS.sub(_blank, text))
    verdicts = _boxed(masked, choices)
    if not verdicts:
        raise Unreadable(f"the reply has no \\boxed{{{choices[0]}}} or \\boxed{{{choices[1]}}}")
    headings = [(place.start(), int(place[1]) - 1) for place in _HEADING.finditer(masked)]
    if not headings:
        if len(verdicts) > num_steps:
            raise Unreadable(f"the reply has {len(verdicts)} verdicts for {num_steps} steps, and does not say which is on which")
        return dict(enumerate(verdicts))
    found: dict[int, Verdict] = {}
    for verdict in verdicts:
        above = [number for start, number in headings if start < verdict.offset]
        if above and not 0 <= above[-1] < num_steps:
            raise Unreadable(f"the reply has a verdict on step {above[-1] + 1} of {num_steps}")
        if above:
            found[above[-1]] = verdict
    if not found:
        raise Unreadable("the reply has verdicts before its first step alone")
    return found


def _boxed(masked: str, choices: Sequence[str]) -> list[Verdict]:
    words = {choice.casefold(): choice for choice in choices}
    pattern = r"\\boxed\{\s*(?:\\text\{\s*)?(" + "|".join(map(re.escape, choices)) + r")\s*\}"
    return [Verdict(words[one[1].casefold()], one.start(1)) for one in re.finditer(pattern, masked, re.IGNORECASE)]


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _first_reason(course: _Course) -> str:
    return next((reason for reason in course.reasons if reason is not None), "the model gave no verdict")


def open_step_verdicts(
    model: str | Path,
    form: WrittenForm,
    asked: StepsAsked,
    options: JudgeOptions | None = None,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    max_tokens: int | None = None,
    ledger: Path | None = None,
) -> StepVerdicts:
    """The scorer of a form that writes: a directory or hub id in this process, or its name at the endpoint that the options name.

    What is assumed is printed. Raises ValueError for a template file that is not there, and as `open_judge` does.
    """
    options = options or JudgeOptions()
    settings = merged_settings(JudgeSettings(model=str(model), deadline=_DEADLINE), options)
    instruction = None
    if asked.template is not None:
        if not Path(asked.template).is_file():
            raise ValueError(f"template={asked.template}: there is no such file")
        instruction = Path(asked.template).read_text(encoding="utf-8")
    generator = generator_of(settings, options, dtype=dtype, device=device, max_tokens=max_tokens, ledger=ledger)
    scorer = StepVerdicts(generator, form, asked, instruction=instruction)
    for what, how in scorer.assumed.items():
        say(what, how)
    return scorer
