"""Will this reward model work for this policy: what its own answers say before a step is trained.

A policy learns from differences between answers to one prompt. So what matters is not accuracy on somebody's pairs but how the
scorer spreads this policy's answers: whether it tells them apart at all, whether length alone does it, what best-of-n gains, and
how much a worthless edit gains in the same units.

Suffixes: P prompts, K answers of a prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.audit.best_of_n import best_of_n_curve, sizes_up_to
from assay.records import Completion, Finding, Level, Metric, PreferencePair, Report, Rewards, Table
from assay.stats.mean_intervals import share_interval

MIN_WITHIN = 0.1
"""Share of the variance of rewards that lies within prompts, below which little of a reward teaches."""
MAX_STUCK = 0.5
MAX_LENGTH = 0.5
"""Share of prompts' spread that length alone may explain."""
MAX_UNSCORED, MAX_UNFINISHED = 0.02, 0.2


_BOUNDS = (
    (
        "variance within prompts",
        MIN_WITHIN,
        "least",
        "nearly all of the reward is told by the prompt: relative to a prompt's other answers little is left. Draw more varied "
        "answers (temperature), or train the reward model on pairs of this policy",
    ),
    (
        "prompts without a gradient",
        MAX_STUCK,
        "most",
        "most prompts teach nothing: use a finer reward, harder prompts, or more answers",
    ),
    (
        "ties in bfloat16",
        0.05,
        "most",
        "keep rewards in float32 up to the advantage: far from 0 they lose their differences in bfloat16",
    ),
    ("answers without a reward", MAX_UNSCORED, "most", "they leave their groups{most}"),
    (
        "answers that were cut off",
        MAX_UNFINISHED,
        "most",
        "raise the token limit, or give unfinished answers a fixed low reward",
    ),
    (
        "explained by length",
        MAX_LENGTH,
        "most",
        "the policy will learn the length first: take it off the reward, or train on pairs of equal length (docs/training.md)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A policy's answers to one prompt, and which of them ended by themselves."""

    completions: tuple[Completion, ...]
    finished: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResult:
    """findings: a verdict each, with what to do."""

    findings: tuple[Finding, ...]
    page: Report

    @property
    def fails(self) -> bool:
        return any(one.level == "fail" for one in self.findings)

    def report(self) -> Report:
        return self.page


def preflight(
    answers: Sequence[Answers],
    rewards: Sequence[Rewards],
    *,
    gold: Sequence[Rewards] | None = None,
    notes: Sequence[Finding] = (),
    title: str = "Preflight",
    seed: int = 0,
) -> PreflightResult:
    """A verdict for each thing that a policy needs of its reward. rewards, gold: of each prompt's answers. notes: what else was
    found (probes, distance), said beside.

    Raises ValueError for fewer than two prompts with two answers each.
    """
    usable = [len(one.completions) > 1 for one in answers]
    if sum(usable) < 2:
        raise ValueError(f"{sum(usable)} prompts have two or more answers: at least 2 are needed, and some 50 for useful intervals")
    value = [_values(one) for one in rewards]
    prompts_P = np.arange(len(value))
    within_P = np.array([np.nanvar(one, ddof=1) if (~np.isnan(one)).sum() > 1 else np.nan for one in value])
    mean_P = np.array([np.nanmean(one) if (~np.isnan(one)).any() else np.nan for one in value])
    metrics = [_share_within(within_P, mean_P), _stuck(value, prompts_P), _ties_in_half(value, prompts_P)]
    metrics += [_unscored(value, prompts_P), _unfinished(answers, prompts_P), _length(answers, value, prompts_P, seed)]
    tables = [_best_of_n(value, None if gold is None else [_values(one) for one in gold], seed)]
    if gold is not None:
        metrics.append(_agreement(value, [_values(one) for one in gold], prompts_P))
    findings = (*_findings(metrics, rewards), *notes)
    page = Report(
        title=title,
        metrics=tuple(metrics),
        tables=tuple(tables),
        examples=tuple(_examples(answers, value)),
        findings=findings,
        lead=_lead(findings),
        key={one.name: () for one in (metrics[0], metrics[1], metrics[5], *metrics[6:])},
    )
    return PreflightResult(findings=findings, page=page)


def best_and_worst(answers: Sequence[Answers], rewards: Sequence[Rewards]) -> list[PreferencePair]:
    """The best and the worst answer to each prompt by the scorer, as pairs: their margins are the unit of the probes."""
    pairs: list[PreferencePair] = []
    for one, column in zip(answers, rewards, strict=True):
        value_K = _values(column)
        if (~np.isnan(value_K)).sum() < 2:
            continue
        best, worst = int(np.nanargmax(value_K)), int(np.nanargmin(value_K))
        if value_K[best] == value_K[worst]:
            continue
        chosen, rejected = one.completions[best], one.completions[worst]
        pairs.append(
            PreferencePair(
                prompt=chosen.messages,
                chosen=chosen.response or "",
                rejected=rejected.response or "",
                id=f"p{len(pairs)}",
                ground_truth=chosen.ground_truth,
            )
        )
    return pairs


def _values(rewards: Rewards) -> np.ndarray:
    return rewards.value.astype(np.float64)


def _share_within(within_P: np.ndarray, mean_P: np.ndarray) -> Metric:
    kept = ~np.isnan(within_P)
    inside = float(within_P[kept].mean()) if kept.any() else math.nan
    between = float(np.nanvar(mean_P, ddof=1)) if (~np.isnan(mean_P)).sum() > 1 else math.nan
    total = inside + between
    share = inside / total if total > 0 else math.nan
    note = f"std within a prompt {math.sqrt(inside):.3g}, of prompts' means {math.sqrt(between):.3g}" if total > 0 else "no spread"
    return Metric("variance within prompts", share, n_scored=int(kept.sum()), n=len(within_P), note=note)


def _stuck(value: Sequence[np.ndarray], prompts_P: np.ndarray) -> Metric:
    same_P = np.array([_same(one) for one in value])
    return _share("prompts without a gradient", same_P, prompts_P, "all answers have one reward, or fewer than two have any")


def _ties_in_half(value: Sequence[np.ndarray], prompts_P: np.ndarray) -> Metric:
    """Different rewards that bfloat16 (8 bits of precision) makes equal, as a share of the pairs of a prompt."""
    lost_P = []
    for one in value:
        kept = one[~np.isnan(one)].astype(np.float32)
        half = (kept.view(np.uint32) + 0x8000) >> 16
        first, second = np.triu_indices(len(kept), 1)
        different = kept[first] != kept[second]
        lost_P.append(float((half[first] == half[second])[different].mean()) if different.any() else np.nan)
    return _share("ties in bfloat16", np.array(lost_P), prompts_P, "pairs of unlike reward that are equal in bfloat16")


def _unscored(value: Sequence[np.ndarray], prompts_P: np.ndarray) -> Metric:
    return _share("answers without a reward", np.array([np.isnan(one).mean() for one in value]), prompts_P, "")


def _unfinished(answers: Sequence[Answers], prompts_P: np.ndarray) -> Metric:
    share_P = np.array([1 - np.mean(one.finished) if one.finished else np.nan for one in answers])
    return _share("answers that were cut off", share_P, prompts_P, "their reward is of half an answer")


def _length(answers: Sequence[Answers], value: Sequence[np.ndarray], prompts_P: np.ndarray, seed: int) -> Metric:
    """Squared correlation of reward and log length within prompts, with the sign of the slope in its note."""
    products, lengths, spreads = [], [], []
    for one, value_K in zip(answers, value, strict=True):
        log_K = np.log1p([len(answer.response or "") for answer in one.completions])
        kept = ~np.isnan(value_K)
        x, y = log_K[kept] - log_K[kept].mean() if kept.any() else log_K[kept], value_K[kept]
        y = y - y.mean() if len(y) else y
        products.append(float(x @ y))
        lengths.append(float(x @ x))
        spreads.append(float(y @ y))
    sums_P3 = np.array([products, lengths, spreads]).T
    share, slope = _explained(sums_P3.sum(0))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(sums_P3), np.full(len(sums_P3), 1 / len(sums_P3)), size=2000) @ sums_P3
    samples = np.array([_explained(one)[0] for one in draws])
    known = samples[~np.isnan(samples)]
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (math.nan, math.nan)
    direction = "longer is better" if slope > 0 else "shorter is better"
    note = f"{direction}; share of the spread within prompts that the logarithm of the length explains"
    return Metric("explained by length", share, low, high, len(prompts_P), len(prompts_P), note)


def _explained(sums_3: np.ndarray) -> tuple[float, float]:
    product, length, spread = map(float, sums_3)
    return (product * product / (length * spread), product) if length > 0 and spread > 0 else (math.nan, 0.0)


def _agreement(value: Sequence[np.ndarray], gold: Sequence[np.ndarray], prompts_P: np.ndarray) -> Metric:
    """Share of pairs of a prompt with unlike gold that the scorer orders as gold does, ties half."""
    right_P = []
    for own, true in zip(value, gold, strict=True):
        first, second = np.triu_indices(len(own), 1)
        signs = np.sign(own[first] - own[second]), np.sign(true[first] - true[second])
        counted = ~np.isnan(signs[0]) & ~np.isnan(signs[1]) & (signs[1] != 0)
        right_P.append(float(((signs[0] * signs[1])[counted] + 1).mean() / 2) if counted.any() else np.nan)
    return _share("agrees with gold", np.array(right_P), prompts_P, "pairs of answers to one prompt; chance is one half")


def _share(name: str, share_P: np.ndarray, prompts_P: np.ndarray, note: str) -> Metric:
    kept = ~np.isnan(share_P)
    value = float(share_P[kept].mean()) if kept.any() else math.nan
    return Metric(name, value, *share_interval(share_P, prompts_P), int(kept.sum()), len(share_P), note)


def _best_of_n(value: Sequence[np.ndarray], gold: Sequence[np.ndarray] | None, seed: int) -> Table:
    """What best of n gains over one answer: the reward in stds within a prompt, gold in its own unit."""
    sizes = sizes_up_to(max(map(len, value)))
    unit = math.sqrt(float(np.nanmean([np.nanvar(one) for one in value if (~np.isnan(one)).any()])) or 1.0)
    curves = {"reward, in stds of a prompt": (value, unit)}
    if gold is not None:
        curves["gold"] = (list(gold), 1.0)
    columns = []
    for column, scale in curves.values():
        found = best_of_n_curve(list(value), column, [int(n) for n in sizes], seed=seed)
        columns.append((found.gold - found.gold[0]) / scale)
    rows = tuple((int(n), *(float(column[i]) for column in columns)) for i, n in enumerate(sizes))
    return Table(title="best of n", columns=("n", *curves), rows=rows, chart="line", note="gain over one answer")


def _findings(metrics: Sequence[Metric], rewards: Sequence[Rewards]) -> list[Finding]:
    by_name = {one.name: one for one in metrics}
    reasons = Counter(error for one in rewards for error in one.error or () if error)
    most = f"; most often: {reasons.most_common(1)[0][0]}" if reasons else ""
    said = [(name, bound, side, remedy.format(most=most)) for name, bound, side, remedy in _BOUNDS]
    found = []
    for name, bound, side, remedy in said:
        one = by_name[name]
        if math.isnan(one.value):
            found.append(Finding("warn", name, one.value, bound, f"it could not be measured: {one.note}"))
            continue
        is_good = one.value >= bound if side == "least" else one.value <= bound
        why = one.note if is_good else remedy
        found.append(Finding("ok" if is_good else "warn", name, one.value, bound, why))
    if "agrees with gold" in by_name:
        one = by_name["agrees with gold"]
        level: Level = "ok" if one.low > 0.5 else "fail"
        why = "it orders this policy's answers as gold does"
        if level == "fail":
            why = "on this policy's own answers it is not above a coin by its interval: a policy trained on it goes anywhere"
        found.append(Finding(level, one.name, one.value, 0.5, why, "overoptimization"))
    return found


def _examples(answers: Sequence[Answers], value: Sequence[np.ndarray]) -> list[dict[str, object]]:
    """The prompts with the widest spread: their best and worst answers."""
    spread = [float(np.nanmax(one) - np.nanmin(one)) if (~np.isnan(one)).sum() > 1 else -1.0 for one in value]
    found: list[dict[str, object]] = []
    for p in np.argsort(spread)[::-1][:3]:
        if spread[p] <= 0:
            continue
        for kind, k in (("best", int(np.nanargmax(value[p]))), ("worst", int(np.nanargmin(value[p])))):
            one = answers[p].completions[k]
            prompt = "\n".join(turn.content for turn in one.messages)
            found.append({"kind": kind, "prompt": prompt, "response": one.response, "reward": float(value[p][k])})
    return found


def _lead(findings: Sequence[Finding]) -> str:
    bad = [one.name for one in findings if one.level != "ok"]
    if not bad:
        return "Nothing speaks against training this policy on this reward."
    worst = "must be mended first" if any(one.level == "fail" for one in findings) else "should be looked at first"
    return f"Before this policy is trained on this reward, {len(bad)} of {len(findings)} things {worst}: {', '.join(bad[:4])}."


def _same(value_K: np.ndarray) -> float:
    kept = value_K[~np.isnan(value_K)]
    return float(len(kept) < 2 or bool((kept == kept[0]).all()))
