"""`assay attribute`: which surface features the margins go with, what openers are paid, where in an answer it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.data.split import is_among
from assay.models.artifact import PROMPTS_FILE, read_description
from assay.models.device import Dtype
from assay.monitor.attribution import attribute_margins
from assay.monitor.openers import find_openers, opener_effects, opener_parts, plan_edits
from assay.records import Completion, PreferencePair, Report, Table
from assay.report.html import write_html
from assay.scorers.base import Scorer
from assay.scorers.load import artifact_path, load_raw
from assay.scorers.local import LocalScorer
from assay.workflows.rundir import pairs_to_look_at, prompt_file, write_report
from assay.workflows.settings import ModelPath
from assay.workflows.show import progress, say
from assay.workflows.steps import score_margins

MOST_PAIRS = 5_000  # 200 MB for the kernel of words


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeConfig:
    """What a model pays for on the surface: length, format, tone, openers."""

    model: ModelPath
    """Run directory or artifact."""
    data: str | None = None
    """Pairs whose answers are looked at, whatever their labels; the run's own test split when left out."""
    limit: int = 1000
    """Read at most so many pairs."""
    openers: int = 8
    """How many of the most frequent openers are moved to other answers; 0: none."""
    edits: int = 300
    """Most answers that are edited and scored again for that."""
    form: str | None = None
    """Form of the rows; found when left out."""
    seed: int = 0
    device: str = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        if self.limit > MOST_PAIRS:
            raise ValueError(f"--limit {self.limit}: attribution holds a table of pairs by pairs, {MOST_PAIRS:,} at most")
        if self.openers < 0 or (self.openers and self.edits < 3 * self.openers):
            raise ValueError(
                f"--openers {self.openers} with --edits {self.edits}: give at least three edits an opener, or 0 openers"
            )


def attribute(config: AttributeConfig) -> Report:
    """Attribute the margins on a set; the report is kept as eval/attribution.json and as attribution.html.

    Raises ValueError for a set without pairs, or one that `attribute_margins` refuses.
    """
    path = artifact_path(config.model)
    pairs, name = pairs_to_look_at(config.model, config.data, limit=config.limit, form=config.form)
    trained_on = prompt_file(path, PROMPTS_FILE)
    known = sum(is_among(trained_on, pair) for pair in pairs) if trained_on is not None else 0
    scorer = load_raw(path, dtype=config.dtype, device=config.device)
    margins_P = score_margins(scorer, pairs, "scoring")
    facts = {
        "model": str(read_description(path)["fingerprint"]),
        "data": name,
        "pairs": f"{len(pairs):,}, of which {known:,} have prompts that the model was trained on",
    }
    title, asked = f"Attribution on {name}", {"num_openers": config.openers, "num_edits": config.edits, "seed": config.seed}
    report = attribution_report(scorer, pairs, margins_P, title=title, **asked)
    report = _with(report, facts, traces(scorer, pairs, margins_P))
    write_report(config.model, "attribution", report)
    page = config.model / "attribution.html"
    write_html(page, [report], f"Attribution of {config.model.name}")
    say("page", str(page))
    return report


def attribution_report(
    scorer: Scorer,
    pairs: Sequence[PreferencePair],
    margins_P: np.ndarray,
    *,
    title: str,
    num_openers: int = 8,
    num_edits: int = 300,
    seed: int = 0,
) -> Report:
    """Surface features and openers of any scorer with P margins on pairs. Raises as `attribute_margins`."""
    parts = attribute_margins(margins_P, pairs, seed=seed)
    metrics, tables, findings = parts.metrics, parts.tables, parts.findings
    if num_openers:
        median = float(np.nanmedian(np.abs(margins_P)))
        edits = plan_edits(pairs, find_openers(pairs, num_openers), num_edits, seed=seed)
        with progress("openers", None, "edits") as advance:
            effects = opener_effects(scorer, edits, median, seed=seed)
            advance(len(edits))
        of_openers = opener_parts(effects)
        metrics, tables, findings = (*metrics, *of_openers[0]), (*tables, *of_openers[1]), (*findings, *of_openers[2])
    return Report(title=title, metrics=metrics, tables=tables, findings=findings, facts={"seed": str(seed)})


def traces(scorer: object, pairs: Sequence[PreferencePair], margins_P: np.ndarray) -> list[dict[str, Any]]:
    """Examples with the reward token by token: both answers of the pair whose margin is of median size, and the higher-rewarded one
    of the pair with the largest margin. None for scorers that have no trace."""
    told = np.flatnonzero(np.isfinite(margins_P))
    if not isinstance(scorer, LocalScorer) or not len(told):
        return []
    by_size = told[np.argsort(np.abs(margins_P[told]), kind="stable")]
    usual, largest = pairs[by_size[len(by_size) // 2]], by_size[-1]
    best = pairs[largest].completions()[0 if margins_P[largest] > 0 else 1]
    asked = [("a pair of median margin", completion) for completion in usual.completions()] + [("the largest margin", best)]
    return [_traced(scorer, kind, completion) for kind, completion in asked]


def _traced(scorer: LocalScorer, kind: str, completion: Completion) -> dict[str, Any]:
    trace = scorer.trace(completion)
    return {
        "kind": f"reward by token: {kind}",
        "prompt": [message._asdict() for message in completion.messages],
        "id": completion.id,
        "reward": float(trace.rewards[-1]),
        "trace": [[token, float(reward)] for token, reward in zip(trace.tokens, trace.rewards, strict=True)],
    }


def _with(report: Report, facts: dict[str, str], examples: list[dict[str, Any]]) -> Report:
    """The report with facts, traced examples, and the first of them as a line."""
    tables = report.tables
    if examples:
        rows = tuple((f"{i} {token}", reward) for i, (token, reward) in enumerate(examples[-1]["trace"], 1))
        note = "the answer of the largest margin: its reward if it stopped at each token"
        tables = (*tables, Table(title="reward by token", columns=("token", "reward"), rows=rows, chart="line", note=note))
    return Report(
        title=report.title,
        metrics=report.metrics,
        tables=tables,
        examples=tuple(examples),
        findings=report.findings,
        facts={**facts, **report.facts},
    )
