"""Labels of the new pairs: by a scorer, with a journal, so that no pair is put to it twice; or by people, in a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from assay.bulk.label import INCONSISTENT, TIED, Labelled, Said, judged, labelled
from assay.console import progress
from assay.errors import DataError, RewardError
from assay.files import write_text
from assay.records import PreferencePair
from assay.rl.refresh.refresh_state import Waiting
from assay.scorers.base import Scorer

JOURNAL, TO_LABEL, LABELLED = "labels.jsonl", "to_label.jsonl", "labelled.jsonl"
SKIPPED = "skipped"
_AT_ONCE = 32  # pairs that are put to a labeller at once, and of which a kill can lose the labels
_SHOWN = 3
_SAID = {"a": 1.0, "b": 0.0, "tie": 0.5, "skip": math.nan}


def by_scorer(scorer: Scorer, pairs: Sequence[PreferencePair], folder: Path, *, max_unlabelled: float) -> list[Said]:
    """What the labeller says of each pair; ties and verdicts that turn with the order are settled, what it could not say is asked
    again by the next call. Where more than that share of the pairs has nothing, raises RewardError; the other labels are kept."""
    journal = folder / JOURNAL
    known = _read_journal(journal)
    missing = [pair for pair in pairs if pair.id not in known]
    with progress("labelling", len(pairs), "pairs", done=len(pairs) - len(missing)) as advance:
        for begin in range(0, len(missing), _AT_ONCE):
            asked = missing[begin : begin + _AT_ONCE]
            said = judged(scorer, asked)
            settled = {pair.id: one for pair, one in zip(asked, said, strict=True) if _is_settled(one)}
            _append(journal, settled)
            known |= settled
            advance(len(asked))
            if not settled:
                break  # it is away: the others are not tried in vain
    left = [pair for pair in pairs if pair.id not in known]
    if len(left) > max_unlabelled * len(pairs):
        raise RewardError(
            f"{len(left):,} of {len(pairs):,} new pairs have no label ({_why_not(scorer, left[0])}); {len(known):,} labels are "
            "kept. Mend the labeller and call again, or allow more with --max-unlabelled"
        )
    return [known.get(pair.id, Said(math.nan, None, "no label")) for pair in pairs]


def by_people(pairs: Sequence[PreferencePair], folder: Path, *, seed: int) -> list[Said] | Waiting:
    """The labels of the file that was written out for people, or what they are told where it is not filled yet.

    The two answers stand in an order of their own, and nothing says whose they are. Raises DataError for ids or texts that are not
    those that were written out, and for a label that is none.
    """
    path = folder / TO_LABEL
    rows = [_row(pair, seed) for pair in pairs]
    fill = 'in each line give "better" as "a", "b", "tie" or "skip", then call the same command again'
    if not path.is_file():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return Waiting(f"{len(rows):,} pairs wait for their labels in {path}: {fill}")
    filled = _read_filled(path, {row["id"]: row for row in rows})
    empty = [row["id"] for row in rows if filled[row["id"]] is None]
    if empty:
        return Waiting(f"{len(empty):,} of {len(rows):,} pairs in {path} have no label, {empty[0]} is the first: {fill}")
    said = zip(rows, pairs, strict=True)
    return [_said_by_people(_SAID[str(filled[row["id"]])], is_first=row["a"] == pair.chosen) for row, pair in said]


def labelled_pairs_of(pairs: Sequence[PreferencePair], said: Sequence[Said], *, labeller: str, policy: str) -> Labelled:
    """The pairs with their labels, in the form of `assay data label`; a tie of people is a pair with the preference 0.5."""
    answers = [list(pair.completions()) for pair in pairs]
    return labelled(pairs, said, answers, {}, judge=labeller, policy=policy, source="refresh")


def _is_settled(said: Said) -> bool:
    return said.why_not in (None, TIED, INCONSISTENT)


def _said_by_people(p: float, *, is_first: bool) -> Said:
    return Said(math.nan, None, SKIPPED) if math.isnan(p) else Said(p if is_first else 1 - p, None)


def _why_not(scorer: Scorer, pair: PreferencePair) -> str:
    """What the labeller gives as its reason for one of them."""
    reasons = [error for error in scorer.score(pair.completions()).error or () if error]
    return reasons[0] if reasons else "it gave no verdict"


def _row(pair: PreferencePair, seed: int) -> dict[str, Any]:
    turned = crc32(f"{seed}:{pair.id}".encode()) % 2 == 1
    a, b = (pair.rejected, pair.chosen) if turned else (pair.chosen, pair.rejected)
    return {"id": pair.id, "prompt": [turn.as_dict() for turn in pair.prompt], "a": a, "b": b, "better": None}


def _read_filled(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """id -> what was filled in, None for nothing."""
    found: dict[str, str | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, better = row["id"], row.get("better")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number} is no JSON object with an id ({error!r}): mend the line") from error
        if name not in rows:
            raise DataError(f"{path}, line {number}: the id {name!r} was not written out: fill in that very file")
        if name in found:
            raise DataError(f"{path}, line {number}: the id {name!r} stands there twice: leave one line of it")
        if changed := [part for part in ("prompt", "a", "b") if row.get(part, rows[name][part]) != rows[name][part]]:
            raise DataError(f"{path}, line {number}: {' and '.join(changed)} of {name!r} was changed: only fill in better")
        better = str(better).strip().lower() if better is not None else ""
        if better and better not in _SAID:
            raise DataError(f"{path}, line {number}: better is {better!r} for {name!r}: give a, b, tie or skip")
        found[name] = better or None
    if lost := [name for name in rows if name not in found]:
        raise DataError(
            f"{path} lacks {len(lost):,} of the pairs that were written out, such as {', '.join(lost[:_SHOWN])}: put them back"
        )
    return found


def _read_journal(path: Path) -> dict[str, Said]:
    """The labels so far; what a kill cut off is taken off the file, so that the next line begins where it should."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["id"]: Said(row["p"], row["margin"], row["why_not"]) for row in rows}


def _append(path: Path, settled: Mapping[str, Said]) -> None:
    rows = ({"id": name, **one._asdict()} for name, one in settled.items())
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
