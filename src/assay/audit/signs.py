"""What is watched of a policy's answers, look by look, and how far it has moved from the start of the run. No verdicts: thresholds
are of whole healthy runs (`audit/healthy_file`), and without them a sign is a figure and no more.

A look is some hundred rows in their order. Its figures are means over rows or over prompts; signs compare them with the mean of the
first looks of the same run, and are always read upwards: what may move both ways makes two signs.

Suffixes: N rows, F features, P prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np

from assay.audit.attribution.features import FEATURES, LENGTH_FEATURES, feature_matrix
from assay.evaluation.rounding import to_bfloat16
from assay.messages import Messages, prompt_key
from assay.records import Completion, Rewards
from assay.stats.metrics import mean

EXCERPT = 2_000  # characters of a prompt and of an answer that are kept to be shown
READ = 4_000  # characters of an answer whose surface is read
OPENER_WORDS, OPENERS = 3, 64  # words of the longest opener; openers of a look that are counted
SHOWN = tuple(name for name in FEATURES if name not in LENGTH_FEATURES)
"""The features that "surface moved" looks at: length has signs of its own."""
_SHOWN = [list(FEATURES).index(name) for name in SHOWN]
_LEAST_STD = 0.25  # of a feature that hardly varied at the start: log(1 + count) of one use in four answers
_ROWS_A_FEATURE = 3  # degrees of freedom for each feature, below which what they explain is not said

How = Literal["level", "difference", "relative", "in spreads"]


class SeenRow(NamedTuple):
    """What is kept of a row until its look closes. prompt: a hash, equal for answers to one prompt; "" where it is not known.
    value, std, length (characters), repeated: NaN where there is none. surface: () where it was not read. asked, said: excerpts."""

    prompt: str
    value: float
    std: float
    length: float
    repeated: float
    opener: str
    surface: tuple[float, ...]
    asked: str
    said: str


class Sign(NamedTuple):
    """How a sign is made of a figure. way: +1 where a rise is watched, -1 where a fall is. words: what it says, for findings."""

    figure: str
    how: How
    way: int
    words: str


SIGNS: Mapping[str, Sign] = {
    "longer answers": Sign("length", "relative", 1, "answers are longer than at the start, as a share of that"),
    "shorter answers": Sign("length", "relative", -1, "answers are shorter than at the start, as a share of that"),
    "higher reward": Sign("reward", "in spreads", 1, "the reward rose, in spreads within a prompt at the start"),
    "lower reward": Sign("reward", "in spreads", -1, "the reward fell, in spreads within a prompt at the start"),
    "wider rewards": Sign("spread", "relative", 1, "rewards of a prompt's answers spread more than at the start"),
    "narrower rewards": Sign("spread", "relative", -1, "rewards of a prompt's answers spread less than at the start"),
    "same reward": Sign("same reward", "difference", 1, "more prompts whose answers all have one reward"),
    "saturated rewards": Sign("saturated", "difference", 1, "more answers share the highest reward, in bfloat16"),
    "members disagree": Sign("member std", "relative", 1, "members of the ensemble disagree more than at the start"),
    "members agree": Sign("member std", "relative", -1, "members of the ensemble disagree less than at the start"),
    "without a reward": Sign("not scored", "difference", 1, "more answers have no reward"),
    "surface explains": Sign("surface explains", "level", 1, "share of the rewards within prompts that surface features explain"),
    "surface moved": Sign("surface moved", "level", 1, "how far a surface feature moved, in its standard deviations at the start"),
    "new opener": Sign("new opener", "level", 1, "by how much the share of answers that begin alike has grown"),
    "repeated text": Sign("repeated", "difference", 1, "more of an answer are phrases that it has already said"),
    "KL": Sign("KL", "level", 1, "nats of an answer from the policy that training started from"),
    "higher entropy": Sign("entropy", "relative", 1, "nats a token are more than at the start"),
    "lower entropy": Sign("entropy", "relative", -1, "nats a token are fewer than at the start"),
    "unfinished answers": Sign("finished", "difference", -1, "fewer answers end by themselves"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """at: the step, or how many rows there were. figures: by name, NaN where they could not be measured. surface, surface_std: of
    each of `SHOWN`, () where no text was read. openers: share of answers that begin so, the most frequent ones."""

    at: int
    num_rows: int
    figures: Mapping[str, float]
    surface: tuple[float, ...] = ()
    surface_std: tuple[float, ...] = ()
    openers: Mapping[str, float]


class Moved(NamedTuple):
    """What of several has moved the most, and by how much; "" and NaN where nothing is known."""

    name: str
    value: float


def answer_text(completion: Completion) -> str | None:
    """The answer; of a text that was rendered all of it, of token ids nothing."""
    return completion.text if completion.response is None else completion.response


def rows_of(completions: Sequence[Completion], rewards: Rewards, *, num_read: int, keep_texts: bool) -> list[SeenRow]:
    """A row for each completion. num_read: of so many the surface is read, from the first on."""
    texts = [answer_text(one) for one in completions]
    read = [i for i, text in enumerate(texts[:num_read]) if text is not None]
    surfaces = dict(zip(read, feature_matrix([str(texts[i])[:READ] for i in read]).tolist(), strict=True))
    values, stds = rewards.value.tolist(), (math.nan,) * len(texts) if rewards.std is None else rewards.std.tolist()
    rows, messages, key = [], None, ""
    for i, (completion, text) in enumerate(zip(completions, texts, strict=True)):
        if completion.messages != messages:
            messages, key = completion.messages, prompt_key(completion.messages) if completion.messages else ""
        rows.append(
            SeenRow(
                prompt=key,
                value=values[i],
                std=stds[i],
                length=math.nan if text is None else float(len(text)),
                repeated=repeated_share(text[:READ]) if i in surfaces and text is not None else math.nan,
                opener="" if completion.response is None else _opener(completion.response, keep_texts),
                surface=tuple(surfaces.get(i, ())),
                asked=_asked(completion.messages) if keep_texts else "",
                said=(text or "")[:EXCERPT] if keep_texts else "",
            )
        )
    return rows


def beginning(text: str) -> str:
    """The first words of an answer in lower case, spaces between them made one."""
    return " ".join(text[:200].split()[:OPENER_WORDS]).casefold()


def _opener(text: str, keep_text: bool) -> str:
    """The beginning; where no text may be kept, hashes of its words, which compare as the words do."""
    words = beginning(text).split()
    return " ".join(words if keep_text else (blake2b(word.encode(), digest_size=6).hexdigest() for word in words))


def repeated_share(text: str) -> float:
    """Share of the phrases of three words that stand in the text before; NaN for fewer than three words."""
    words = text.split()
    phrases = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(phrases)) / len(phrases) if phrases else math.nan


def look_of(rows: Sequence[SeenRow], at: int) -> Look:
    """The figures of some rows, at least one."""
    value_N, std_N = (np.array([getattr(row, name) for row in rows]) for name in ("value", "std"))
    groups = _prompts(rows)
    spread_P = np.array([value_N[places].std() for places in groups])
    surface_NF = np.array([row.surface for row in rows if row.surface]).reshape(-1, len(FEATURES))
    counts = Counter(opener for row in rows for opener in _openers(row.opener))
    num_begun = sum(bool(row.opener) for row in rows)
    figures = {
        "length": _mean([row.length for row in rows]),
        "reward": _mean(value_N),
        "spread": _mean(spread_P),
        "overall spread": float(np.nanstd(value_N)) if (~np.isnan(value_N)).any() else math.nan,
        "same reward": _mean(spread_P == 0),
        "saturated": _saturated(value_N),
        "member std": _mean(std_N),
        "not scored": float(np.isnan(value_N).mean()),
        "surface explains": explained_by_surface(rows),
        "repeated": _mean([row.repeated for row in rows]),
    }
    return Look(
        at=at,
        num_rows=len(rows),
        figures=figures,
        surface=tuple(surface_NF[:, _SHOWN].mean(0).tolist()) if len(surface_NF) else (),
        surface_std=tuple(surface_NF[:, _SHOWN].std(0).tolist()) if len(surface_NF) else (),
        openers={opener: count / num_begun for opener, count in counts.most_common(OPENERS)},
    )


def start_of(looks: Sequence[Look]) -> Look:
    """The mean of the first looks, as a look: what signs compare with."""
    names = {name for look in looks for name in look.figures}
    openers: Counter[str] = Counter()
    for look in looks:
        openers.update(dict(look.openers))
    read = [look for look in looks if look.surface]
    means = [tuple(np.mean([getattr(look, name) for look in read], axis=0).tolist()) if read else () for name in _SURFACES]
    return Look(
        at=looks[-1].at,
        num_rows=sum(look.num_rows for look in looks),
        figures={name: _mean([look.figures.get(name, math.nan) for look in looks]) for name in sorted(names)},
        surface=means[0],
        surface_std=means[1],
        openers={opener: share / len(looks) for opener, share in openers.items()},
    )


_SURFACES = ("surface", "surface_std")


def signs_of(look: Look, start: Look) -> dict[str, float]:
    """Each sign of a look against the start; NaN where it could not be measured."""
    extra = {"surface moved": surface_moved(look, start).value, "new opener": new_opener(look, start).value}
    unit = start.figures.get("spread", math.nan)
    unit = unit if unit > 0 else start.figures.get("overall spread", math.nan)
    found = {}
    for name, sign in SIGNS.items():
        now, then = ({**extra, **one.figures}.get(sign.figure, math.nan) for one in (look, start))
        match sign.how:
            case "level":
                found[name] = now
            case "difference":
                found[name] = sign.way * (now - then)
            case "relative":
                found[name] = sign.way * (now / then - 1) if then > 0 else math.nan
            case "in spreads":
                found[name] = sign.way * (now - then) / unit if unit > 0 else math.nan
    return found


def surface_moved(look: Look, start: Look) -> Moved:
    """The surface feature whose mean moved the most, in standard deviations of an answer at the start."""
    if not look.surface or not start.surface:
        return Moved("", math.nan)
    moved_F = np.abs(np.subtract(look.surface, start.surface)) / np.maximum(start.surface_std, _LEAST_STD)
    return Moved(SHOWN[int(np.argmax(moved_F))], float(moved_F.max()))


def new_opener(look: Look, start: Look) -> Moved:
    """The opener whose share of the answers grew the most."""
    if not look.openers:
        return Moved("", math.nan)
    grown = {opener: share - start.openers.get(opener, 0.0) for opener, share in look.openers.items()}
    best = max(grown, key=lambda opener: (grown[opener], len(opener), opener))
    return Moved(best, grown[best])


def explained_by_surface(rows: Sequence[SeenRow]) -> float:
    """Adjusted R2 of rewards on surface features, both less their prompt's mean; NaN where too few rows have companions, or where
    no reward of a prompt differs. It may be a little below 0."""
    groups = _prompts([row if row.surface else row._replace(value=math.nan) for row in rows])
    places = [i for group in groups for i in group]
    freedom = len(places) - len(groups)
    x_NF = np.array([rows[i].surface for i in places]).reshape(-1, len(FEATURES))
    y_N = np.array([rows[i].value for i in places])
    begin = 0
    for group in groups:
        part = slice(begin, begin := begin + len(group))
        x_NF[part] -= x_NF[part].mean(0)
        y_N[part] -= y_N[part].mean()
    x_NF = x_NF[:, np.abs(x_NF).max(0, initial=0.0) > 1e-12]
    if freedom < _ROWS_A_FEATURE * len(FEATURES) or not np.square(y_N).sum() > 0:
        return math.nan
    x_NF = x_NF / np.sqrt(np.square(x_NF).mean(0))
    weights_F, _, rank, _ = np.linalg.lstsq(x_NF, y_N, rcond=1e-6)
    missed = float(np.square(y_N - x_NF @ weights_F).sum() / np.square(y_N).sum())
    return 1 - missed * freedom / (freedom - int(rank))


def places_of(name: str, rows: Sequence[SeenRow], look: Look, start: Look, keep: int) -> list[int]:
    """The rows to show for a sign: those that make it, most telling first."""
    value_N = np.array([row.value for row in rows])
    match name:
        case "longer answers" | "shorter answers":
            key_N = np.array([row.length for row in rows]) * SIGNS[name].way
        case "members disagree" | "members agree":
            key_N = np.array([row.std for row in rows]) * SIGNS[name].way
        case "repeated text":
            key_N = np.array([row.repeated for row in rows])
        case "without a reward":
            key_N = np.isnan(value_N).astype(np.float64)
        case "new opener":
            begun = new_opener(look, start).name
            key_N = np.where([begun in _openers(row.opener) for row in rows], np.nan_to_num(value_N, nan=-np.inf), np.nan)
        case "surface moved":
            moved = surface_moved(look, start).name
            at = list(FEATURES).index(moved) if moved else 0
            way = 1 if not moved or look.surface[SHOWN.index(moved)] >= start.surface[SHOWN.index(moved)] else -1
            key_N = np.array([way * row.surface[at] if row.surface else math.nan for row in rows])
        case "lower reward":
            key_N = -value_N
        case "same reward" | "narrower rewards":
            narrowest = min(_prompts(rows), key=lambda group: value_N[group].std(), default=[])
            key_N = np.where(np.isin(np.arange(len(rows)), narrowest), 0.0, np.nan)
        case _:
            key_N = value_N
    order = np.argsort(-key_N, kind="stable")
    return [int(i) for i in order[:keep] if not math.isnan(key_N[i])]


def _prompts(rows: Sequence[SeenRow]) -> list[list[int]]:
    """Places of the scored answers to each prompt that has two."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.prompt and not math.isnan(row.value):
            groups.setdefault(row.prompt, []).append(i)
    return [places for places in groups.values() if len(places) > 1]


def _openers(opener: str) -> set[str]:
    words = opener.split()
    return {" ".join(words[:k]) for k in range(1, len(words) + 1)}


def _saturated(value_N: np.ndarray) -> float:
    """Share of the scored answers whose reward is the highest of the look, both rounded to bfloat16."""
    scored_N = value_N[~np.isnan(value_N)].astype(np.float32)
    if not len(scored_N):
        return math.nan
    rounded_N = to_bfloat16(scored_N)
    return float((rounded_N == rounded_N.max()).mean())


def _asked(messages: Messages) -> str:
    return "\n".join(turn.content for turn in messages)[-EXCERPT:]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return mean(np.asarray(values, dtype=np.float64))
