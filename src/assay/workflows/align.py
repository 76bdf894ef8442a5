"""Map the scale of one reward model onto another's, so that it can take the other's place under the same KL coefficient.

Only margins (differences between two answers to one prompt) carry a scale; offsets need no mapping, since a constant added to all
answers of a prompt changes no policy. Suffixes: P pairs, S bootstrap samples.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeAlias, cast

import numpy as np
import torch
import tyro
from scipy.stats import rankdata

from assay.data.pairs import read_pairs
from assay.data.split import refuse_overlap
from assay.evaluation.slices import mean
from assay.metrics import Interval, cluster_bootstrap, is_right
from assay.models.artifact import PROMPTS_FILE, load_artifact, read_description, save_artifact
from assay.models.device import Dtype, pick_compute
from assay.records import Finding, Metric, PreferencePair, Report
from assay.report.card import render_card
from assay.scorers.calibrate import Calibration
from assay.scorers.load import artifact_path
from assay.scorers.local import load_local
from assay.workflows.rundir import prompt_file, write_report
from assay.workflows.show import say
from assay.workflows.steps import CALIBRATION_PROMPTS_FILE, score_margins, slug

FACTOR, ROBUST, AGREEMENT, TIES, RANKS = "factor", "robust factor", "agreement", "tied pairs", "rank correlation of margins"
MIN_PAIRS = 20
MAX_ERROR, MAX_TAILS, MIN_AGREEMENT = 0.10, 0.20, 0.70
UNIT, CHANGE = Interval(0.0, 1.0), Interval(-1.0, 1.0)
Measure: TypeAlias = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignConfig:
    """Map a model onto another's scale, to replace it at the same KL."""

    old: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OLD")]
    """Run directory or artifact whose scale is kept."""
    new: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NEW")]
    """Run directory or artifact that is to replace it."""
    reference: str
    """Pairs to compare margins on: answers like the policy's, prompts that neither model was trained on."""
    out: Path | None = None
    """Write NEW with its head multiplied by the factor, a plain artifact, to this directory."""
    limit: int | None = None
    """Use the first pairs only."""
    form: str | None = None
    """Form of the rows; recognised by the columns when left out."""
    seed: int = 0
    """Of the bootstrap."""
    device: str = "auto"
    """Where to score, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Number format of both backbones; auto probes the machine once."""


def align_scale(config: AlignConfig) -> Report:
    """Score the reference with both models, raw, and compare the margins; the report is kept with NEW, and `out` gets NEW mapped.

    Raises ValueError for fewer than 20 pairs that both score, margins that are all 0, or an `out` that is not empty; DataError when
    a model was trained on prompts of the reference.
    """
    out = config.out
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory: name a new one")
    paths = artifact_path(config.old), artifact_path(config.new)
    reader = read_pairs(config.reference, form=config.form, limit=config.limit)
    pairs = list(reader)
    say("read", f"{config.reference}: {reader.summary()}")
    for path in paths:
        trained_on = prompt_file(path, PROMPTS_FILE)
        if trained_on is None:
            say("note", f"{path} does not say what it was trained on: an overlap with {config.reference} would not be seen")
        else:
            refuse_overlap(trained_on, pairs, train_name=f"the training set of {path}", eval_name=config.reference)
    compute = pick_compute(config.device, config.dtype)  # once: a probe for each model could choose two formats
    dtype = cast(Dtype, str(compute.dtype).removeprefix("torch."))
    old_P, new_P = (
        score_margins(load_local(path, dtype=dtype, device=str(compute.device)), pairs, label)
        for path, label in zip(paths, ("scoring old", "scoring new"), strict=True)
    )
    name = slug(config.reference)
    report = compare_margins(old_P, new_P, pairs, title=f"Scale against an earlier model on {name}", seed=config.seed)
    prints = [str(read_description(path)["fingerprint"]) for path in paths]
    facts = {"old": prints[0], "model": prints[1], "reference": Path(config.reference).name, "computed in": dtype}
    report = replace(report, facts={**facts, **report.facts})
    write_report(config.new, f"align-{name}", report)
    say("scale", report.findings[0].why)
    if out is not None:
        _save_mapped(paths[1], out, report)
        say("mapped", f"{config.new} with its head times the factor -> {out}")
    return report


def compare_margins(
    old_P: np.ndarray, new_P: np.ndarray, pairs: list[PreferencePair], *, title: str = "Scale", seed: int = 0
) -> Report:
    """Factor, agreement and accuracy from the margins (P,) of two models on the same pairs; NaN is left out and counted.

    Raises ValueError for fewer than 20 pairs with both margins, and for a model whose margins are all 0.
    """
    scored_P, n = np.isfinite(old_P) & np.isfinite(new_P), len(pairs)
    scored = int(scored_P.sum())
    if scored < MIN_PAIRS:
        raise ValueError(f"{scored} of {n} pairs were scored by both: give a --reference of at least {MIN_PAIRS}, better 500")
    old_P, new_P = np.asarray(old_P, dtype=np.float64)[scored_P], np.asarray(new_P, dtype=np.float64)[scored_P]
    for margins_P, which in ((old_P, "OLD"), (new_P, "NEW")):
        if not margins_P.any():
            raise ValueError(f"{which} gives equal rewards to both answers of every pair, so it has no scale: is it trained?")
    preference_P = np.array([pair.preference for pair in pairs])[scored_P]
    prompts_P = np.unique([pair.prompt_key for pair in pairs], return_inverse=True)[1][scored_P]

    def figure(name: str, measure: Measure, note: str) -> Metric:
        interval = paired_interval(measure, old_P, new_P, prompts_P, seed=seed)
        return Metric(name, measure(old_P, new_P), *interval, scored, n, note)

    def share(name: str, values_P: np.ndarray, out_of: int, note: str, support: Interval = UNIT) -> Metric:
        interval = cluster_bootstrap(values_P, prompts_P, seed=seed, support=support)
        return Metric(name, mean(values_P), *interval, int(np.sum(~np.isnan(values_P))), out_of, note)

    ties = [int(tied_P.sum()) for tied_P in ((old_P == 0) & (new_P != 0), (old_P != 0) & (new_P == 0), (old_P == 0) & (new_P == 0))]
    alike_P = np.where(old_P * new_P == 0, np.nan, np.sign(old_P) == np.sign(new_P))
    metrics = [
        figure(FACTOR, scale_factor, "new rewards times this are on the old scale: ratio of the root mean squares of the margins"),
        figure(ROBUST, robust_factor, "ratio of the medians of |margin|, which large margins do not move"),
        share(AGREEMENT, alike_P, n, "pairs that both order alike, of those that neither ties"),
        Metric(TIES, sum(ties), n_scored=scored, n=n, note="margin 0: old alone {}, new alone {}, both {}".format(*ties)),
        figure(RANKS, rank_correlation, "Spearman, each pair in both orders: which answer is named first does not matter"),
    ]
    if (preference_P != 0.5).any():
        old_right_P, new_right_P = is_right(old_P, preference_P), is_right(new_P, preference_P)
        labelled = sum(not pair.is_tie for pair in pairs)
        metrics += [
            share("accuracy: old", old_right_P, labelled, "a score tie counts as wrong"),
            share("accuracy: new", new_right_P, labelled, "a score tie counts as wrong"),
            share("accuracy: new minus old", new_right_P - old_right_P, labelled, "paired, resampled by prompt", CHANGE),
        ]
    facts = {"pairs": str(n), "prompts": str(len(np.unique(prompts_P))), "seed": str(seed)}
    return Report(title=title, metrics=tuple(metrics), findings=_findings(*metrics[:3]), facts=facts)


def scale_factor(old_P: np.ndarray, new_P: np.ndarray) -> float:
    """rms(old margins) / rms(new margins): times this, new rewards exert the pull of the old ones; swapped it gives 1 / factor.

    The best policy under reward r and KL coefficient b is proportional to reference x exp(r / b) (Rafailov et al. 2023, eq. 4). Its
    KL to the reference is Var(r | prompt) / (2 b^2) to second order, and margins of two answers drawn from the reference have mean
    square 2 Var: equal mean squares spend equal KL. A regression of one model's margins on the other's would be shrunk by what
    either does not share with the other, though a policy follows that part too.
    """
    return _ratio(float(np.sqrt(np.mean(np.square(old_P)))), float(np.sqrt(np.mean(np.square(new_P)))))


def robust_factor(old_P: np.ndarray, new_P: np.ndarray) -> float:
    """median |old margin| / median |new margin|; NaN where the latter is 0."""
    return _ratio(float(np.median(np.abs(old_P))), float(np.median(np.abs(new_P))))


def rank_correlation(old_P: np.ndarray, new_P: np.ndarray) -> float:
    """Spearman's correlation of the margins over both orders of every pair, m and -m: in [-1, 1], NaN where one is all ties.

    The rank of m among all m and -m, less its mean, is sign(m) (rank of |m| - 1/2). Without the second order it would depend on
    which answer of a pair happens to be called chosen.
    """
    old, new = (np.sign(margins_P) * (rankdata(np.abs(margins_P)) - 0.5) for margins_P in (old_P, new_P))
    return _ratio(float(old @ new), math.sqrt(float(old @ old) * float(new @ new)))


def paired_interval(
    measure: Measure, old_P: np.ndarray, new_P: np.ndarray, clusters_P: np.ndarray, *, seed: int, num_samples: int = 1000
) -> Interval:
    """95% percentile interval of a figure of two columns when whole clusters (prompts) are drawn anew, the same for both columns.

    None with a single cluster, or when some draw has no figure. Davison & Hinkley (1997), section 3.8.
    """
    index_P = np.unique(clusters_P, return_inverse=True)[1]
    num_clusters, rng = int(index_P.max()) + 1, np.random.default_rng(seed)
    values_S = np.full(num_samples, np.nan)
    for i in range(num_samples if num_clusters > 1 else 0):
        count_P = np.bincount(rng.integers(num_clusters, size=num_clusters), minlength=num_clusters)[index_P]
        values_S[i] = measure(np.repeat(old_P, count_P), np.repeat(new_P, count_P))
    return Interval(*(float(end) for end in np.quantile(values_S, [0.025, 0.975])))  # NaN as soon as one value is


def scaled_calibration(calibration: Calibration, factor: float) -> Calibration:
    """The calibration of a scorer whose rewards were multiplied by `factor` > 0: equal probabilities for the scaled margins."""
    return replace(
        calibration,
        temperature=calibration.temperature * factor,
        temperature_se=calibration.temperature_se * factor,
        knot_margins=tuple(knot * factor for knot in calibration.knot_margins),
        scorer="",  # it named the scorer before scaling
    )


def _ratio(over: float, under: float) -> float:
    return over / under if under > 0 else math.nan


def _findings(factor: Metric, robust: Metric, agreement: Metric) -> tuple[Finding, ...]:
    def held(is_ok: bool, name: str, value: float, threshold: float, seen: str, why: str) -> Finding:
        return Finding("ok" if is_ok else "warn", name, value, threshold, seen if is_ok else f"{seen}: {why}")

    error = math.sqrt(_ratio(factor.high, factor.low)) - 1
    tails = float(np.maximum(_ratio(factor.value, robust.value), _ratio(robust.value, factor.value))) - 1
    unscored = factor.n - factor.n_scored
    interval = "no interval" if math.isnan(error) else f"95% interval [{factor.low:.4g}, {factor.high:.4g}]"
    certain = f"factor {factor.value:.4g}, {interval}"
    sizes = f"factor {factor.value:.3g}, robust factor {robust.value:.3g}"
    alike = f"both models order {agreement.value:.1%} of the pairs alike"
    other = "a factor maps how far a policy is pulled, not where to; this is another reward, not another scale"
    counted = f"{unscored} of {factor.n} pairs lack a margin of either model"
    return (
        held(error <= MAX_ERROR, "certainty of the factor", error, MAX_ERROR, certain, "give a reference with more prompts"),
        held(tails <= MAX_TAILS, "one factor for all", tails, MAX_TAILS, sizes, "large margins and usual ones differ in scale"),
        held(agreement.value >= MIN_AGREEMENT, "agreement", agreement.value, MIN_AGREEMENT, alike, other),
        held(unscored == 0, "unscored pairs", unscored, 0, counted, "they are in no figure"),
    )


def _save_mapped(path: Path, out: Path, report: Report) -> None:
    """Write the artifact at `path` with head and calibration multiplied by the factor, all or nothing."""
    dtype = getattr(torch, read_description(path)["dtype"])
    model, renderer, description = load_artifact(path, dtype=dtype)
    factor, calibration = report.metric(FACTOR), description["calibration"]
    with torch.no_grad():
        model.head.weight.mul_(factor.value)
    low, high = (None if math.isnan(end) else end for end in (factor.low, factor.high))
    reference = {"name": report.facts["reference"], "num_pairs": factor.n_scored}
    scale = {"aligned_to": report.facts["old"], "model": report.facts["model"], "reference": reference}
    description["scale"] = {**scale, "factor": factor.value, "low": low, "high": high}
    if calibration is not None:
        description["calibration"] = scaled_calibration(Calibration.from_json(calibration), factor.value).to_json()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as outer:
        work = Path(outer) / "mapped"
        trained_on, calibrated_on = prompt_file(path, PROMPTS_FILE), prompt_file(path, CALIBRATION_PROMPTS_FILE)
        written = save_artifact(model, renderer, work, description, dtype=dtype, train_prompts=trained_on)
        if calibrated_on is not None:
            np.save(work / CALIBRATION_PROMPTS_FILE, calibrated_on)
        (work / "README.md").write_text(render_card(written, [report]), encoding="utf-8")
        work.replace(out)  # takes the place of an empty directory too
