"""What a base's chat template and a length policy would make of preference pairs: tokens, what is cut, what is set aside."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from assay.data.tokens.render import Renderer
from assay.data.tokens.rendered_pairs import RenderCount, render_pairs
from assay.records import Finding, Metric, PreferencePair, Table

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MAX_CUT = 0.01  # of the pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFit:
    """base: its name. lengths: (quantile, chosen, rejected), in tokens of prompt and answer, after the cut; NaN without a pair."""

    base: str
    max_length: int
    template_changes: tuple[str, ...]
    count: RenderCount
    lengths: tuple[tuple[float, float, float], ...]

    @property
    def num_read(self) -> int:
        return self.count.num_pairs + self.count.num_set_aside

    def summary(self) -> str:
        """One line: what training with this base would print."""
        return f"with the template of {self.base}, at most {self.max_length:,} tokens: {self.count.summary()}"

    @property
    def findings(self) -> tuple[Finding, ...]:
        longer = f"longer than --max-length {self.max_length}, so that the beginning of the prompt is lost: raise it"
        unusable = "; ".join(f"{count:,} {reason}" for reason, count in sorted(self.count.set_aside.items()))
        return (
            _at_most("cut by the length policy", self.count.num_cut, self.num_read, longer),
            _at_most("set aside after rendering", self.count.num_set_aside, self.num_read, unusable),
        )

    def metrics(self) -> list[Metric]:
        tokens = Metric("tokens", self.count.num_tokens, n_scored=self.count.num_pairs, n=self.num_read, note=f"with {self.base}")
        cut = Metric("pairs cut at the front", self.count.num_cut, note=f"to {self.max_length:,} tokens")
        return [tokens, cut, Metric("pairs set aside after rendering", self.count.num_set_aside)]

    def tables(self) -> list[Table]:
        quantiles = tuple((f"{100 * row[0]:g}%", *row[1:]) for row in self.lengths)
        left_out = {f"the chat template leaves out {part}": count for part, count in self.count.left_out.items()}
        rows = tuple(sorted({**self.count.set_aside, **left_out}.items(), key=lambda item: -item[1]))
        title = f"Tokens of prompt and answer with {self.base}"
        tables = [
            Table(
                title=title,
                columns=("share of pairs up to", "chosen", "rejected"),
                rows=quantiles,
                note=f"cut at {self.max_length:,}",
            ),
            Table(title="After rendering", columns=("what", "pairs"), rows=rows),
            Table(title="The template", columns=("changed in it",), rows=tuple((change,) for change in self.template_changes)),
        ]
        return [table for table in tables if table.rows]


def fit_template(pairs: Iterable[PreferencePair], renderer: Renderer, base: str) -> TemplateFit:
    """Render the pairs as training does, and keep nothing but the counts and their lengths."""
    count = RenderCount()
    sizes = [(len(chosen.tokens), len(rejected.tokens)) for _, chosen, rejected in render_pairs(pairs, renderer, count)]
    lengths_Q2 = np.full((len(QUANTILES), 2), math.nan)
    if sizes:
        lengths_Q2 = np.quantile(np.array(sizes), QUANTILES, axis=0, method="inverted_cdf")
    return TemplateFit(
        base=base,
        max_length=renderer.max_length,
        template_changes=renderer.template_changes,
        count=count,
        lengths=tuple((share, float(c), float(r)) for share, (c, r) in zip(QUANTILES, lengths_Q2, strict=True)),
    )


def _at_most(name: str, count: int, total: int, why: str) -> Finding:
    """Warns where more than 1% of the total is of this kind."""
    share = count / total if total else math.nan
    return Finding(
        "warn" if share > MAX_CUT else "ok", name, share, MAX_CUT, f"{count:,} of {total:,}" + (f": {why}" if count else "")
    )
