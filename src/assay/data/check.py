"""Preference pairs as training would read them: what was read, in which form, and what is wrong with the labels.

Suffixes: P pairs, G groups of pairs with one prompt and the same two answers, Q quantiles.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.data.pairs import read_pairs
from assay.data.sources.reading import ReadProblems
from assay.errors import DataError
from assay.records import Finding, Metric, PreferencePair, Report, Table
from assay.stats.bootstrap import cluster_bootstrap
from assay.stats.metrics import mean

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MAX_SET_ASIDE = 0.01  # of what was read
MAX_REPEATED = 0.01  # of the pairs
MAX_OUTVOTED = 0.01  # of the pairs with a plain label
MAX_LENGTH_LEAD = 0.10  # how far from one half the longer answer may win

_PAIR = np.dtype([
    ("prompt", "u8"), ("one", "u8"), ("other", "u8"), ("is_turned", "?"), ("preference", "f8"),
    ("prompt_length", "i8"), ("chosen_length", "i8"), ("rejected_length", "i8"),
])  # fmt: skip
"""one, other: the two answers, whichever of them was chosen; is_turned: the chosen answer is `other`."""


class FileRead(NamedTuple):
    """What one file gave. error: why it could not be read as a whole, "" where it could."""

    name: str
    problems: ReadProblems
    error: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether no pair of it can be used."""
        return bool(self.error) or not self.problems.num_pairs

    def summary(self) -> str:
        """One line: the forms, the counts, and the reasons with their first lines."""
        forms = self.problems.forms
        found = ", ".join(f"{form} ({count:,})" for form, count in forms.items()) if len(forms) > 1 else "".join(forms)
        return self.error or f"{self.problems.summary()}; form: {found or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheckResult:
    """What preference pairs are like. Shares are of the pairs that were read; NaN where there are none.

    ties: share of pairs without a preference. longer: how often the longer answer is preferred, ties and equal lengths left out,
    with an interval by prompt. num_repeated: pairs with the prompt and the two answers, in either order, of an earlier one.
    num_outvoted: of the same two answers with opposite labels, the pairs of the rarer label; of equally many, half.
    lengths: (quantile, prompt, chosen, rejected), in characters. labels: (label, number of pairs).
    """

    title: str
    files: tuple[FileRead, ...]
    num_pairs: int
    num_prompts: int
    ties: Metric
    longer: Metric
    num_repeated: int
    num_outvoted: int
    lengths: tuple[tuple[float, float, float, float], ...]
    labels: tuple[tuple[str, int], ...]

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
            _length_lead(self.longer),
        )

    def report(self) -> Report:
        counted = Metric(
            "pairs", self.num_pairs, n_scored=self.num_pairs, n=self.num_pairs + self.num_set_aside, note=self._forms()
        )
        copies = Metric("repeated pairs", self.num_repeated, note="same prompt and same two answers as an earlier pair")
        outvoted = Metric(
            "contradicting labels", self.num_outvoted, note="as many or more pairs of the same two answers say the opposite"
        )
        metrics = [counted, Metric("prompts", self.num_prompts), self.ties, self.longer, copies, outvoted]
        return Report(
            title=self.title,
            metrics=(*metrics, *self._median_lengths()),
            tables=self._tables(),
            findings=self.findings,
            facts={"files": ", ".join(file.name for file in self.files), "forms": self._forms()},
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
        ]
        return tuple(table for table in tables if table.rows)


def check_pairs(files: Sequence[str], *, form: str | None = None, limit: int | None = None, seed: int = 0) -> DataCheckResult:
    """Read files of preference pairs as training does, and look at all of their pairs as one set.

    form, limit (of each file) and seed are those of `read_pairs`; seed is that of the interval too. A file that cannot be read is a
    finding, and does not keep the others from being read.
    """
    read = [_read(name, form, limit, seed) for name in files]
    pairs_P = np.concatenate([pairs for _, pairs in read])
    direction_P = np.sign(pairs_P["preference"] - 0.5)
    longer_P = np.sign(pairs_P["chosen_length"] - pairs_P["rejected_length"]) * direction_P
    wins_P = np.where(longer_P == 0, np.nan, (longer_P > 0).astype(np.float64))
    interval = cluster_bootstrap(wins_P, pairs_P["prompt"], seed=seed)
    num_compared, num_pairs = int(np.isfinite(wins_P).sum()), len(pairs_P)
    ties = float(np.mean(direction_P == 0)) if num_pairs else math.nan
    repeated, outvoted = _repeated(pairs_P, direction_P)
    return DataCheckResult(
        title=f"Preference pairs of {', '.join(_short(name) for name in files)}",
        files=tuple(file for file, _ in read),
        num_pairs=num_pairs,
        num_prompts=len(np.unique(pairs_P["prompt"])),
        ties=Metric("ties", ties, n_scored=num_pairs, n=num_pairs, note="share of pairs without a preference"),
        longer=Metric(
            "longer answer preferred", mean(wins_P), *interval, num_compared, num_pairs, "ties and equal lengths left out"
        ),
        num_repeated=repeated,
        num_outvoted=outvoted,
        lengths=_lengths(pairs_P),
        labels=_labels(pairs_P["preference"]),
    )


def _read(name: str, form: str | None, limit: int | None, seed: int) -> tuple[FileRead, np.ndarray]:
    """What a file gave, and its pairs as rows of `_PAIR`."""
    problems = ReadProblems()
    try:
        reader = read_pairs(name, form=form, limit=limit, seed=seed)
        try:
            pairs_P = np.fromiter((_row(pair) for pair in reader), dtype=_PAIR)
        finally:
            problems = reader.problems
        return FileRead(_short(name), problems), pairs_P
    except DataError as error:
        return FileRead(_short(name), problems, str(error)), np.empty(0, _PAIR)


def _row(pair: PreferencePair) -> tuple[int, int, int, bool, float, int, int, int]:
    chosen, rejected = pair.completions()
    first, second = int(chosen.key[:16], 16), int(rejected.key[:16], 16)
    prompt_length, chosen_length = chosen.sizes
    lengths = (prompt_length, chosen_length, rejected.sizes[1])
    return int(pair.prompt_key[:16], 16), min(first, second), max(first, second), first > second, pair.preference, *lengths


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


def _length_lead(longer: Metric) -> Finding:
    """Warns where the whole interval lies outside of one half and a tenth to either side."""
    name, threshold = "length of the preferred answer", 0.5 + MAX_LENGTH_LEAD
    seen = f"the longer answer is preferred in {longer.value:.1%} [{longer.low:.1%}, {longer.high:.1%}] of the pairs"
    if longer.low > threshold or longer.high < 1 - threshold:
        why = f"{seen}: a model that counts characters is as often right; see --debias-length (docs/training.md)"
        return Finding("warn", name, longer.value, threshold, why)
    return Finding("ok", name, longer.value, threshold, seen if math.isfinite(longer.value) else "no pair to compare")


def _short(name: str) -> str:
    return Path(name).name
