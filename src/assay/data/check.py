"""Preference pairs as training would read them: what was read, in which form, and what is wrong with the labels.

Suffixes: P pairs, G groups of pairs with one prompt and the same two answers, Q quantiles.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.data.balance import first_wins, has_markdown, lead, markdown_wins, script_table
from assay.data.pairs import read_pairs
from assay.data.raw.columns import NO_NAMES
from assay.data.scripts import script_of
from assay.data.set_aside import why_no_pairs
from assay.data.sources.reading import ReadProblems
from assay.data.spread import Spread
from assay.data.template_fit import TemplateFit, fit_template
from assay.data.tokens.render import Renderer
from assay.errors import DataError
from assay.records import Finding, Metric, PreferencePair, Report, Table
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import mean

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MAX_SET_ASIDE = 0.01  # of what was read
MAX_REPEATED = 0.01  # of the pairs
MAX_OUTVOTED = 0.01  # of the pairs with a plain label
BY_MARKDOWN = "a model that prefers formatting is as often right; see assay audit probe"
BY_LENGTH = "a model that counts characters is as often right; see --debias-length (docs/training.md)"

_PAIR = np.dtype([
    ("prompt", "u8"), ("one", "u8"), ("other", "u8"), ("is_turned", "?"), ("preference", "f8"),
    ("prompt_length", "i8"), ("chosen_length", "i8"), ("rejected_length", "i8"),
    ("chosen_markdown", "?"), ("rejected_markdown", "?"),
])  # fmt: skip
"""one, other: the two answers, whichever of them was chosen; is_turned: the chosen answer is `other`."""


class FileRead(NamedTuple):
    """What one file gave. error: why it could not be read as a whole, "" where it could. drawn: what a limit left of it. why_empty:
    where it gave no pair, the reasons with a row of each, and what to do."""

    name: str
    problems: ReadProblems
    error: str = ""
    drawn: str = ""
    why_empty: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether no pair of it can be used."""
        return bool(self.error) or not self.problems.num_pairs

    def summary(self) -> str:
        """One line: the forms, the counts, and the reasons with their first lines."""
        forms = self.problems.forms
        found = ", ".join(f"{form} ({count:,})" for form, count in forms.items()) if len(forms) > 1 else "".join(forms)
        return self.error or "; ".join(filter(None, (self.problems.summary(), f"form: {found or 'none'}", self.drawn)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheckResult:
    """What preference pairs are like. Shares are of the pairs that were read; NaN where there are none.

    ties: share of pairs without a preference. longer: how often the longer answer is preferred, ties and equal lengths left out,
    with an interval by prompt; markdown, first: the same of the answer that alone has markdown, and of the one that stands first in
    its row. num_repeated: pairs with the prompt and the two answers, in either order, of an earlier one.
    num_outvoted: of the same two answers with opposite labels, the pairs of the rarer label; of equally many, half.
    lengths: (quantile, prompt, chosen, rejected), in characters. labels: (label, number of pairs). scripts: (of the prompt, of the
    answers) -> pairs. spread: of the tags. fit: what a base's template would make of the pairs, None without a base.
    """

    title: str
    files: tuple[FileRead, ...]
    num_pairs: int
    num_prompts: int
    ties: Metric
    longer: Metric
    markdown: Metric
    first: Metric
    num_repeated: int
    num_outvoted: int
    lengths: tuple[tuple[float, float, float, float], ...]
    labels: tuple[tuple[str, int], ...]
    scripts: Mapping[tuple[str, str], int]
    spread: Spread
    fit: TemplateFit | None = None

    @property
    def num_set_aside(self) -> int:
        return sum(file.problems.num_set_aside for file in self.files)

    @property
    def findings(self) -> tuple[Finding, ...]:
        repeated = "same prompt and same two answers as an earlier pair: they count twice in training"
        outvoted = "the same two answers have the opposite label elsewhere: no model can be right on them"
        decided = self.ties.n - round(self.ties.value * self.ties.n) if self.num_pairs else 0
        return (
            *(
                Finding("fail", f"{file.name} was read", 0, 1, file.error.partition("\n")[0] or "no pair in it")
                for file in self.files
                if file.is_empty
            ),
            _at_most(
                "set aside", self.num_set_aside, self.num_set_aside + self.num_pairs, MAX_SET_ASIDE, "rows or pairs are left out"
            ),
            _at_most("repeated pairs", self.num_repeated, self.num_pairs, MAX_REPEATED, repeated),
            _at_most("contradicting labels", self.num_outvoted, decided, MAX_OUTVOTED, outvoted),
            *(() if self.fit is None else self.fit.findings),
            lead(
                self.markdown,
                "markdown of the preferred answer",
                BY_MARKDOWN,
            ),
            lead(self.first, "place of the preferred answer", "a judge may prefer a place: have both orders judged"),
            lead(self.longer, "length of the preferred answer", BY_LENGTH),
        )

    def report(self) -> Report:
        counted = Metric(
            "pairs", self.num_pairs, n_scored=self.num_pairs, n=self.num_pairs + self.num_set_aside, note=self._forms()
        )
        copies = Metric("repeated pairs", self.num_repeated, note="same prompt and same two answers as an earlier pair")
        outvoted = Metric(
            "contradicting labels", self.num_outvoted, note="as many or more pairs of the same two answers say the opposite"
        )
        balance = [self.ties, self.longer, self.markdown, self.first]
        rendered = [] if self.fit is None else self.fit.metrics()
        metrics = [counted, Metric("prompts", self.num_prompts), *balance, copies, outvoted, *rendered]
        return Report(
            title=self.title,
            metrics=(*metrics, *self._median_lengths()),
            tables=self._tables(),
            findings=self.findings,
            facts={"files": ", ".join(file.name for file in self.files), "forms": self._forms()},
            lead=f"{self.num_pairs:,} pairs to {self.num_prompts:,} prompts were read; {self.num_set_aside:,} were set aside.",
            key={
                self.longer.name: ("half: no lead",),
                self.markdown.name: ("half: no lead",),
                self.first.name: ("half: no lead",),
                outvoted.name: (),
            },
        )

    def _forms(self) -> str:
        counts = sum((Counter(file.problems.forms) for file in self.files), Counter[str]())
        return ", ".join(f"{form} ({count:,} rows)" for form, count in counts.most_common())

    def _median_lengths(self) -> list[Metric]:
        columns = list(zip(*self.lengths, strict=True))[1:]
        return [
            Metric(
                f"{name}, characters",
                column[2],
                note=f"median; 5% {column[0]:,.0f}, 95% {column[4]:,.0f}, longest {column[5]:,.0f}",
            )
            for name, column in zip(("prompt", "chosen", "rejected"), columns, strict=True)
        ]

    def _tables(self) -> tuple[Table, ...]:
        files = tuple((f.name, f.problems.num_rows, f.problems.num_pairs, f.problems.num_set_aside) for f in self.files)
        reasons = tuple(
            (file.name, reason, count, file.problems.places(reason))
            for file in self.files
            for reason, (count, _) in sorted(file.problems.reasons.items(), key=lambda item: -item[1][0])
        )
        quantiles = tuple((f"{100 * row[0]:g}%", *row[1:]) for row in self.lengths)
        tables = [
            Table(title="Files", columns=("file", "rows", "pairs", "set aside"), rows=files),
            Table(title="Set aside", columns=("file", "reason", "rows or pairs", "where"), rows=reasons),
            Table(title="Lengths in characters", columns=("share of pairs up to", "prompt", "chosen", "rejected"), rows=quantiles),
            Table(title="Labels", columns=("probability of the preferred answer", "pairs"), rows=self.labels, chart="bars"),
            script_table(self.scripts),
            *filter(None, (self.spread.table(),)),
            *(() if self.fit is None else self.fit.tables()),
        ]
        return tuple(table for table in tables if table.rows)


def check_pairs(
    files: Sequence[str],
    *,
    form: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    names: Mapping[str, str] = NO_NAMES,
    renderer: Renderer | None = None,
    base: str = "",
) -> DataCheckResult:
    """Read files of preference pairs as training does, and look at all of their pairs as one set.

    form, limit (of each file), seed and names are those of `read_pairs`; seed is that of the intervals too. renderer: of the base
    of that name, to see what its template and length policy would cut and set aside. A file that cannot be read is a finding, and
    does not keep the others from being read.
    """
    seen = _Seen()
    read = [_read(name, form, limit, seed, names, seen) for name in files]
    pairs_P = np.concatenate([pairs for _, pairs in read])
    direction_P = np.sign(pairs_P["preference"] - 0.5)
    longer_P = np.sign(pairs_P["chosen_length"] - pairs_P["rejected_length"]) * direction_P
    wins_P = np.where(longer_P == 0, np.nan, (longer_P > 0).astype(np.float64))
    interval = mean_interval(wins_P, pairs_P["prompt"], seed=seed)
    num_compared, num_pairs = int(np.isfinite(wins_P).sum()), len(pairs_P)
    ties = float(np.mean(direction_P == 0)) if num_pairs else math.nan
    repeated, outvoted = _repeated(pairs_P, direction_P)
    usable = [name for name, (file, _) in zip(files, read, strict=True) if not file.is_empty]
    again = chain.from_iterable(read_pairs(name, form=form, limit=limit, seed=seed, names=names) for name in usable)
    return DataCheckResult(
        title=f"Preference pairs of {', '.join(_short(name) for name in files)}",
        files=tuple(file for file, _ in read),
        num_pairs=num_pairs,
        num_prompts=len(np.unique(pairs_P["prompt"])),
        ties=Metric("ties", ties, n_scored=num_pairs, n=num_pairs, note="share of pairs without a preference"),
        longer=Metric(
            "longer answer preferred", mean(wins_P), *interval, num_compared, num_pairs, "ties and equal lengths left out"
        ),
        markdown=markdown_wins(pairs_P["chosen_markdown"], pairs_P["rejected_markdown"], direction_P, pairs_P["prompt"], seed=seed),
        first=first_wins(seen.positions),
        num_repeated=repeated,
        num_outvoted=outvoted,
        lengths=_lengths(pairs_P),
        labels=_labels(pairs_P["preference"]),
        scripts=seen.scripts,
        spread=seen.spread,
        fit=None if renderer is None else fit_template(again, renderer, base),
    )


@dataclass(slots=True)
class _Seen:
    """What is counted of all files while their pairs pass by."""

    positions: Counter[tuple[str, int]] = field(default_factory=Counter)
    scripts: Counter[tuple[str, str]] = field(default_factory=Counter)
    spread: Spread = field(default_factory=Spread)


def _read(
    name: str, form: str | None, limit: int | None, seed: int, names: Mapping[str, str], seen: _Seen
) -> tuple[FileRead, np.ndarray]:
    """What a file gave, and its pairs as rows of `_PAIR`."""
    problems = ReadProblems()
    try:
        reader = read_pairs(name, form=form, limit=limit, seed=seed, names=names)
        try:
            pairs_P = np.fromiter((_row(pair, seen) for pair in reader), dtype=_PAIR)
        finally:
            problems = reader.problems
        seen.positions += reader.positions
        return FileRead(_short(name), problems, "", reader.drawn, "" if len(pairs_P) else why_no_pairs([reader])), pairs_P
    except DataError as error:
        return FileRead(_short(name), problems, str(error)), np.empty(0, _PAIR)


def _row(pair: PreferencePair, seen: _Seen) -> tuple[int, int, int, bool, float, int, int, int, bool, bool]:
    seen.spread.add(pair)
    seen.scripts[script_of(pair.prompt[-1].content), script_of(f"{pair.chosen[:1000]} {pair.rejected[:1000]}")] += 1
    chosen, rejected = pair.completions()
    first, second = int(chosen.key[:16], 16), int(rejected.key[:16], 16)
    prompt_length, chosen_length = chosen.sizes
    lengths = (prompt_length, chosen_length, rejected.sizes[1])
    keys = (int(pair.prompt_key[:16], 16), min(first, second), max(first, second), first > second)
    return *keys, pair.preference, *lengths, has_markdown(pair.chosen), has_markdown(pair.rejected)


def _repeated(pairs_P: np.ndarray, direction_P: np.ndarray) -> tuple[int, int]:
    """Pairs that repeat an earlier one, and pairs whose label the same two answers outvote (of an even vote, half of them)."""
    index_P = np.unique(pairs_P[["prompt", "one", "other"]], return_inverse=True)[1]
    num_groups = int(index_P.max(initial=-1)) + 1
    vote_P = np.where(pairs_P["is_turned"], -direction_P, direction_P)
    for_one_G, for_other_G = (np.bincount(index_P, weights=vote_P == side, minlength=num_groups) for side in (1, -1))
    return len(pairs_P) - num_groups, int(np.minimum(for_one_G, for_other_G).sum())


def _lengths(pairs_P: np.ndarray) -> tuple[tuple[float, float, float, float], ...]:
    columns = [pairs_P[name] for name in ("prompt_length", "chosen_length", "rejected_length")]
    if not len(pairs_P):
        return tuple((share, math.nan, math.nan, math.nan) for share in QUANTILES)
    quantiles_Q3 = np.stack([np.quantile(column, QUANTILES, method="inverted_cdf") for column in columns], axis=1)
    return tuple((share, float(p), float(c), float(r)) for share, (p, c, r) in zip(QUANTILES, quantiles_Q3, strict=True))


def _labels(preference_P: np.ndarray) -> tuple[tuple[str, int], ...]:
    """How sure the labels are of the answer that they prefer; and in how many pairs that is the one called rejected."""
    sure_P = np.maximum(preference_P, 1 - preference_P)
    counts = (
        ("0.5 (tie)", sure_P == 0.5),
        ("0.5 to 0.75", (sure_P > 0.5) & (sure_P < 0.75)),
        ("0.75 to 1", (sure_P >= 0.75) & (sure_P < 1)),
        ("1 (plain label)", sure_P == 1),
        ("of these, the rejected answer preferred", preference_P < 0.5),
    )
    return tuple((label, int(is_in_P.sum())) for label, is_in_P in counts if is_in_P.any())


def _at_most(name: str, count: int, total: int, threshold: float, why: str) -> Finding:
    """Warns where more than a share `threshold` of the total is of this kind."""
    share = count / total if total else math.nan
    text = f"{count:,} of {total:,}" + (f": {why}" if count else "")
    return Finding("warn" if share > threshold else "ok", name, share, threshold, text)


def _short(name: str) -> str:
    return Path(name).name
