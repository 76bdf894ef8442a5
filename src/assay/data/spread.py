"""How the tags of pairs lie in a file, and how evenly a sample and the splits spread over them: many sets are sorted by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from assay.records import PreferencePair, Table

MAX_VALUES = 200  # a tag of more values than this is a name, not a slice
MIN_PAIRS = 20  # below it nothing is said
SORTED = 0.5  # a tag that changes from row to row less often than this share of what a random order gives
SOURCE = "source"
_NUM_TAGS = 3


@dataclass(slots=True)
class _Tag:
    """whole, parts: value -> pairs, of all and of each part. last: the value of the row before; changes: how often it changed."""

    whole: Counter[str] = field(default_factory=Counter)
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    last: str | None = None
    changes: int = 0

    def is_sorted(self, num_pairs: int) -> bool:
        total = self.whole.total()
        if num_pairs < MIN_PAIRS or not 2 <= len(self.whole) <= MAX_VALUES or total < num_pairs / 2:
            return False
        return self.changes < SORTED * (total - 1) * (1 - sum((count / total) ** 2 for count in self.whole.values()))


@dataclass(slots=True)
class Spread:
    """Counts the values of every tag, the source among them.

    `add` takes all pairs, in the order of their files; `count` says in which part one is: a split, or what was drawn.
    """

    num_pairs: int = 0
    _tags: dict[str, _Tag] = field(default_factory=dict)

    def add(self, pair: PreferencePair) -> None:
        self.num_pairs += 1
        for name, value in _values(pair):
            tag = self._tags.setdefault(name, _Tag())
            if len(tag.whole) <= MAX_VALUES:
                tag.whole[value] += 1
            tag.changes += tag.last is not None and tag.last != value
            tag.last = value

    def count(self, part: str, pair: PreferencePair) -> None:
        for name, value in _values(pair):
            self._tags[name].parts.setdefault(part, Counter())[value] += 1

    def sorted_by(self) -> list[str]:
        """The tags by which the pairs are sorted, wholly or mostly, those of fewest values first."""
        found = sorted((len(tag.whole), name) for name, tag in self._tags.items() if tag.is_sorted(self.num_pairs))
        return [name for _, name in found]

    def lines(self) -> list[str]:
        """For each tag that the pairs are sorted by (three at most), how evenly it is spread over the parts."""
        return [self._line(name) for name in self.sorted_by()[:_NUM_TAGS]]

    def table(self) -> Table | None:
        """Share of each value of the tag of most values that the pairs are sorted by, in all and in each part; None without one."""
        names = self.sorted_by()
        if not names:
            return None
        tag = self._tags[names[-1]]
        shares = [_shares(counts) for counts in (tag.whole, *tag.parts.values())]
        rows = tuple((value, *(share.get(value, 0.0) for share in shares)) for value, _ in tag.whole.most_common())
        return Table(title=f"Sorted by {names[-1]}", columns=(names[-1], "all", *tag.parts), rows=rows)

    def _line(self, name: str) -> str:
        tag = self._tags[name]
        whole, said = _shares(tag.whole), []
        for part, counts in tag.parts.items():
            share = _shares(counts)
            value = max(whole, key=lambda value: abs(share.get(value, 0.0) - whole[value]))
            missing = f", without {len(whole) - len(share)} of them" if len(share) < len(whole) else ""
            said.append(f"{part}{missing}, {value!r} {share.get(value, 0.0):.1%} for {whole[value]:.1%}")
        differ = f"; where shares differ most: {'; '.join(said)}" if said else ", so the first rows are no sample of them"
        return f"the rows are sorted by {name} ({len(whole)} values){differ}"


def _values(pair: PreferencePair) -> list[tuple[str, str]]:
    return [(SOURCE, pair.source), *pair.tags.items()]


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {value: count / total for value, count in counts.items()}
