"""Asks a generative model about answers and reads what it says: the part that all forms have in common.

A verdict's probability is read where the verdict stands: behind the critique that was written, or behind the reply's beginning
where none is wanted. Without probabilities, the word that was written counts. What has no verdict stays without one, with the
reason.

Suffixes: K samples of one question, C columns: the words of a verdict, or the answers that got scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast, get_args
from urllib.parse import parse_qsl, quote, urlencode

import numpy as np

from assay.files import json_digest
from assay.generation.generator import Estimate, Generator
from assay.generation.replies import Answered, Ask, Reply, Sampling, Unreadable
from assay.messages import Message, Messages
from assay.records import Completion
from assay.scorers.generative.form_prompts import FormPrompt
from assay.scorers.generative.generative_forms import Combine, GenerativeForm, generative_form
from assay.scorers.generative.reply_verdicts import written_verdict
from assay.scorers.judges.outside_shares import OutsideShares
from assay.scorers.judges.verdict_tokens import READ_TEXT, Masses, masses_at, masses_of

Reading = Literal["auto", "tokens", "text"]
VERDICT_ROOM = 24  # tokens of a reply that is a verdict alone
_YES_NO = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}


class GenerativeAsked(NamedTuple):
    """What a user says of a generative model, as it stands behind # in a spec: name?samples=8&temperature=1.

    form: its name, "" where the model's name is to say it. What is None is as said here. template: a file with the publisher's
    prompt. critique: whether one is written, the form's own way. samples: replies to each question, whose verdicts are combined,
    1. temperature: 0, or the form's own with several samples. max_tokens: of a reply, the form's own. reading: the verdict's
    probabilities ("tokens"), the word that is written ("text"), or "auto", the first where they are to be had. orders: 2 shows two
    answers in both orders, 1 as they come; 2. combine: the form's own way. seed: of the draws, 0.
    """

    form: str = ""
    template: str | None = None
    critique: bool | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    reading: Reading | None = None
    orders: Literal[1, 2] | None = None
    combine: Combine | None = None
    seed: int | None = None

    def over(self, saved: GenerativeAsked) -> GenerativeAsked:
        """This, with what it leaves open taken from `saved`."""
        return saved._replace(**{name: value for name, value in self._asdict().items() if value not in (None, "")})


def read_generative_spec(text: str) -> GenerativeAsked:
    """`GenerativeAsked` of the text behind #. Raises ValueError, naming what there is, for what is none."""
    name, _, query = text.partition("?")
    if name:
        generative_form(name)
    try:
        given = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise ValueError(f"#{text}: settings are written as in #{name or 'rm-r1'}?template=FILE&samples=8") from None
    if unknown := set(given) - set(GenerativeAsked._fields[1:]):
        raise ValueError(f"#{text}: there is no setting {sorted(unknown)[0]!r}: use {', '.join(GenerativeAsked._fields[1:])}")
    return GenerativeAsked(name, **{key: _setting(text, key, value) for key, value in given.items()})


def generative_text(asked: GenerativeAsked) -> str:
    """What stands behind # for it."""
    given = {
        key: ("yes" if value else "no") if key == "critique" else value
        for key, value in asked._asdict().items()
        if key != "form" and value is not None
    }
    return asked.form + (f"?{urlencode(given, quote_via=quote)}" if given else "")


def _setting(text: str, key: str, value: str) -> Any:
    """The value of a setting. Raises ValueError, naming what it may be."""
    choices: dict[str, tuple[Any, ...]] = {"reading": get_args(Reading), "combine": get_args(Combine), "orders": ("1", "2")}
    if key in choices and value not in choices[key]:
        raise ValueError(f"#{text}: {key} {value!r} is none of {', '.join(choices[key])}")
    if key == "critique":
        if value.casefold() not in _YES_NO:
            raise ValueError(f"#{text}: critique {value!r} must be yes or no")
        return _YES_NO[value.casefold()]
    try:
        number = {"samples": int, "max_tokens": int, "seed": int, "orders": int, "temperature": float}.get(key, str)(value)
    except ValueError:
        raise ValueError(f"#{text}: {key} {value!r} must be a number") from None
    if (key in ("samples", "max_tokens") and number < 1) or (key == "temperature" and not 0 <= number < float("inf")):  # type: ignore[operator]
        raise ValueError(f"#{text}: {key} {value} must be {'finite and not negative' if key == 'temperature' else 'at least 1'}")
    return number


class Question(NamedTuple):
    """Answers to one prompt in the order in which they are shown. order: that order, in words, for the ledger. samples: the
    numbers of the replies that are drawn, None for all."""

    answers: tuple[Completion, ...]
    order: str = ""
    samples: tuple[int, ...] | None = None


class Opinion(NamedTuple):
    """What K replies say of one question. found (K, C): the probability of each word of the verdict (text: 1 and 0), or the score
    of each answer; NaN where a reply has no verdict. texts: the replies; errors: why there is no verdict."""

    found: np.ndarray
    texts: tuple[str | None, ...]
    errors: tuple[str | None, ...]

    @property
    def is_read(self) -> np.ndarray:
        """(K,) which replies have a verdict."""
        return np.isfinite(self.found).all(axis=1)

    @property
    def error(self) -> str | None:
        """Why the question has no verdict: half of the replies or more have none."""
        num_read = int(self.is_read.sum())
        if 2 * num_read > len(self.errors):
            return None
        first = next(error for error in self.errors if error is not None)
        return f"{first} ({len(self.errors) - num_read} of {len(self.errors)} replies)" if len(self.errors) > 1 else first

    @property
    def text(self) -> str | None:
        """The replies, and how many of them could not be read."""
        said = "\n\n".join(text for text in self.texts if text)
        num_lost = int((~self.is_read).sum()) if len(self.errors) > 1 else 0
        return (f"{said}\n({num_lost} of {len(self.errors)} replies have no verdict)" if num_lost and said else said) or None


class Critic:
    """A language model, a form, and how it is asked. assumed: what -> how, for reports.

    Raises ValueError for settings that the form or the model cannot follow, EngineError for an endpoint that cannot be asked.
    """

    def __init__(self, generator: Generator, prompt: FormPrompt, asked: GenerativeAsked = GenerativeAsked()) -> None:  # noqa: B008
        self.generator, self.prompt, self.form, self.asked = generator, prompt, prompt.form, asked
        form = self.form
        self.writes = form.writes if asked.critique is None else asked.critique
        self.is_local = hasattr(generator.backend, "causal")
        self.by_token = _by_token(generator, form, asked)
        self.is_direct = not self.writes and self.by_token and self.is_local
        self.combine: Combine = asked.combine or form.combine
        self.samples, seed = asked.samples or 1, asked.seed or 0
        _refuse_settings(form, asked, writes=self.writes, is_direct=self.is_direct)
        temperature = asked.temperature if asked.temperature is not None else (form.temperature if self.samples > 1 else 0.0)
        room = asked.max_tokens or (form.max_tokens if self.writes else VERDICT_ROOM)
        written = self.by_token and (self.is_direct or not self.is_local)
        self.sampling = Sampling(
            temperature=0.0 if self.is_direct else temperature,
            max_tokens=room,
            seed=seed,
            choices=form.words if written else (),
            reads=form.words if self.by_token and not written else (),
        )
        self.outside_shares = OutsideShares()
        settings = [self.samples, asked.orders or 2, self.combine, self.by_token, self.writes, self.sampling.as_text()]
        self.fingerprint = f"generative:{json_digest([generator.backend.identity, prompt.fingerprint, *settings])}"
        self.assumed = self._assumed()

    def opinions(self, questions: Sequence[Question]) -> list[Opinion]:
        """What the model says of each question, in order."""
        plans = [self._asks(question) for question in questions]
        asks = [ask for plan in plans for ask in plan]
        sizes = {ask: len(question.answers) for question, plan in zip(questions, plans, strict=True) for ask in plan}
        answered = self.generator.ask(asks, lambda ask, reply: self._read(ask, reply, sizes[ask]))
        found = self._behind(asks, answered) if self.by_token and self.is_local and not self.is_direct else list(answered)
        self.outside_shares.take(found)
        opinions, end = [], 0
        for question, plan in zip(questions, plans, strict=True):
            start, end = end, end + len(plan)
            mine, replies = found[start:end], answered[start:end]
            width = len(question.answers) if self.form.gives == "score" else len(self.form.words)
            rows = [[np.nan] * width if one.error is not None else one.verdict["found"] for one in mine]
            texts = tuple(None if self.is_direct else one.reply.text for one in replies)
            opinions.append(Opinion(np.array(rows, np.float64), texts, tuple(one.error for one in mine)))
        return opinions

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """What asking these would cost, at most."""
        return self.generator.estimate([ask for question in questions for ask in self._asks(question)])

    def why_not(self, answers: Sequence[Completion]) -> str | None:
        """Why these answers cannot be asked about; None where they can."""
        return self.prompt.why_not(answers)

    def outside(self) -> str | None:
        """How much probability lay outside of the verdicts so far, in words; None of verdicts in text."""
        return self.outside_shares.summary(fix="reading=text")

    def _asks(self, question: Question) -> list[Ask]:
        messages = self.prompt.messages(question.answers)
        if self.is_direct and self.form.lead:
            verdict, lead = self.form.spelled[0], self.form.lead
            messages = going_on(messages, self._before(verdict, verdict.index(self.form.words[0], len(lead))))
        shared = json_digest([turn.hashed() for turn in question.answers[0].messages])
        return [
            Ask(
                messages=messages,
                sampling=self.sampling,
                sample=k,
                order=question.order,
                rubric=self.prompt.fingerprint,
                shared=shared,
            )
            for k in (range(self.samples) if question.samples is None else question.samples)
        ]

    def _read(self, ask: Ask, reply: Reply, num_answers: int) -> dict[str, Any]:
        """The reader of a reply: {"found": a number for each word or answer, "at": where the verdict begins}. Raises
        `Unreadable`."""
        words = self.form.words
        if self.is_direct:
            masses = masses_of(reply, words)
            return {"found": self._of_masses(masses), "outside": masses.outside}
        begun = ask.messages[-1].content if ask.goes_on else ""
        verdict = written_verdict(reply, self.form, num_answers, begun=begun)
        if self.by_token and (reply.tokens or not self.is_local):
            try:
                masses = _masses_at(reply, verdict.offset, words)
            except Unreadable:
                if not self.is_local:
                    raise
            else:
                return {"found": self._of_masses(masses), "outside": masses.outside, "at": verdict.offset}
        if verdict.word is None:
            return {"found": list(verdict.scores), "at": verdict.offset}
        return {"found": [float(word == verdict.word) for word in words], "at": verdict.offset}

    def _behind(self, asks: Sequence[Ask], answered: Sequence[Answered]) -> list[Answered]:
        """The same with the probabilities of the verdict's words where it stands, read behind the critique; those that were told as
        the critique was written stay."""
        sampling = replace(self.sampling, temperature=0.0, choices=self.form.words, reads=())
        places = [i for i, one in enumerate(answered) if one.error is None and "outside" not in one.verdict]
        behind = []
        for i in places:
            critique = self._before(str(answered[i].reply.text), answered[i].verdict["at"])
            behind.append(replace(asks[i], messages=going_on(asks[i].messages, critique), sampling=sampling))

        def read(_: Ask, reply: Reply) -> dict[str, Any]:
            masses = masses_of(reply, self.form.words)
            return {"found": self._of_masses(masses), "outside": masses.outside}

        found = list(answered)
        for i, one in zip(places, self.generator.ask(behind, read), strict=True):
            found[i] = one
        return found

    def _before(self, text: str, offset: int) -> str:
        """What stands before the token of a verdict, in this model's tokens."""
        return str(self.generator.backend.tokens.before(text, offset))  # type: ignore[attr-defined]

    def _of_masses(self, masses: Masses) -> list[float]:
        """The probability of each word; of scores their expected value."""
        if self.form.gives == "choice":
            return list(masses.choices)
        return [sum(share * float(word) for share, word in zip(masses.choices, self.form.words, strict=True))]

    def _assumed(self) -> dict[str, str]:
        form = self.form
        what = "a score for each answer" if form.gives == "score" else f"{' or '.join(form.words)}"
        where = (
            "the last whole verdict outside of thoughts and quotations counts" if self.writes else "the verdict alone, no critique"
        )
        said = {
            "mean": "the mean",
            "vote": "the share of votes",
            "sum": "the sum of the scores",
        }[self.combine]
        return {
            "form": f"#{form.name}, {form.source}",
            "prompt": self.prompt.origin,
            "verdict": f"{what}; {where}",
            "value": f"{'probabilities of the verdict' if self.by_token else 'what is written'}; {said} of {self.samples} "
            f"{'replies' if self.samples > 1 else 'reply'}",
        }


def _masses_at(reply: Reply, offset: int, words: Sequence[str]) -> Masses:
    """`masses_at`, with what to do here where there are none."""
    try:
        return masses_at(reply, offset, words)
    except Unreadable as reason:
        said = str(reason).replace(READ_TEXT, "reading=text")
        for only_in_a_rubric in ("choices of one token, or ", "the scale one digit, or "):
            said = said.replace(only_in_a_rubric, "")
        raise Unreadable(said) from None


def _by_token(generator: Generator, form: GenerativeForm, asked: GenerativeAsked) -> bool:
    """Whether the verdict's probabilities are read. Raises ValueError where they are asked for and not to be had."""
    reading, combine = asked.reading or "auto", asked.combine or form.combine
    if reading == "text" or (reading == "auto" and (form.gives == "score" or not form.by_token or combine == "vote")):
        return False
    if not form.words or not form.by_token:
        raise ValueError(
            f"reading=tokens: what #{form.name} says is no single token: it is read as it is written; leave reading out"
        )
    features = generator.features()
    if reading == "tokens" and not features.logprobs:
        why = f"{generator.backend.model} gives no probabilities of tokens ({features.summary()})"
        raise ValueError(f"reading=tokens: {why}: give reading=text")
    return features.logprobs


def _refuse_settings(form: GenerativeForm, asked: GenerativeAsked, *, writes: bool, is_direct: bool) -> None:
    if not writes and form.writes and not form.is_own:
        raise ValueError(f"critique=no: #{form.name} was trained to write before its verdict: leave it out")
    if writes and not form.writes:
        raise ValueError(f"critique=yes: #{form.name} was trained to give its verdict alone: leave it out")
    samples = asked.samples or 1
    if samples > 1 and is_direct:
        why = "the probabilities of a verdict without a critique are read once"
        raise ValueError(f"samples={samples}: {why}: leave samples out")
    if samples > 1 and asked.temperature == 0:
        raise ValueError(f"samples={samples} at temperature 0 are one reply {samples} times: give a temperature")
    if asked.orders is not None and form.asks != "two":
        shown = "one answer" if form.asks == "one" else "all answers, sample after sample in the other order"
        raise ValueError(f"orders={asked.orders}: #{form.name} is shown {shown}: leave orders out")
    if (asked.combine == "sum") and form.gives != "score":
        raise ValueError(f"combine=sum: #{form.name} gives a verdict in words, not scores: use mean or vote")
    if asked.combine == "vote" and form.gives == "score" and form.asks == "one":
        raise ValueError(f"combine=vote: #{form.name} scores one answer, and scores are no votes: use mean or sum")


def going_on(messages: Messages, text: str) -> Messages:
    """The messages with a text that the reply goes on with, behind the one that it was begun with."""
    if messages and messages[-1].role == "assistant":
        return (*messages[:-1], Message("assistant", f"{messages[-1].content}{text}"))
    return (*messages, Message("assistant", text)) if text else messages


def first_share(opinion: Opinion, form: GenerativeForm, combine: Combine) -> float:
    """P(the first of two answers is better) of what was said: of words the mean share, of scores which is higher; NaN for none."""
    if opinion.error is not None:
        return np.nan
    read_KC = opinion.found[opinion.is_read]
    if form.gives == "score":
        if combine != "vote":  # sums and means decide once
            read_KC = read_KC.mean(axis=0, keepdims=True)
        return float(np.mean(0.5 + 0.5 * np.sign(read_KC[:, 0] - read_KC[:, 1])))
    if combine == "vote":
        read_KC = _votes(read_KC)
    return float(read_KC.mean(axis=0) @ np.array(form.shares))


def log_odds(opinion: Opinion, *, by_token: bool, combine: Combine) -> float:
    """The log-odds of the first word: of the mean probability, or of votes with half a vote added to both (Anscombe 1956), which
    keeps a unanimous one finite; NaN for none."""
    if opinion.error is not None:
        return np.nan
    read_KC = opinion.found[opinion.is_read]
    if not by_token or combine == "vote":
        yes, no = _votes(read_KC)[:, :2].sum(axis=0)
        return float(np.log((yes + 0.5) / (no + 0.5)))
    yes, no = np.maximum(read_KC[:, :2].mean(axis=0), np.finfo(np.float64).tiny)
    return float(np.log(yes) - np.log(no))


def _votes(read_KC: np.ndarray) -> np.ndarray:
    """(K, C) 1 at the likeliest word of each reply, and 0 elsewhere."""
    return cast(np.ndarray, (read_KC == read_KC.max(axis=1, keepdims=True)).astype(np.float64))
