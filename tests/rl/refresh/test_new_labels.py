"""Labels of new pairs: a journal that a kill cannot spoil, and a file of people that is read with care."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assay.bulk.label import TIED
from assay.errors import DataError, RewardError
from assay.records import PreferencePair, Rewards
from assay.rl.refresh.new_labels import JOURNAL, TO_LABEL, by_people, by_scorer, labelled_pairs_of
from assay.rl.refresh.refresh_state import Waiting


def pairs(num: int) -> list[PreferencePair]:
    """Answers of i and of 2 letters: the first is longer where i > 2, a tie where i = 2."""
    return [PreferencePair(prompt=f"say {i}", chosen="x" * i, rejected="yy", preference=0.5, id=f"p{i}") for i in range(1, num + 1)]


class Longer:
    """The longer answer; NaN for those that are named, as often as is said. asked: how many answers, in each call."""

    fingerprint, scope, tolerance = "longer", "global", 0.0

    def __init__(self, silent: tuple[int, ...] = (), times: int = 99):
        self.silent, self.times, self.asked = silent, times, []

    def score(self, completions):
        self.asked.append(len(completions))
        silent = self.silent if self.times > 0 else ()
        self.times -= 1
        lengths = [len(one.response) for one in completions]
        value = [np.nan if length in silent else float(length) for length in lengths]
        return Rewards(value=value, error=tuple("lost its voice" if length in silent else None for length in lengths))


def test_each_pair_is_put_to_the_labeller_once_and_ties_are_settled(tmp_path):
    scorer = Longer()
    first = by_scorer(scorer, pairs(5), tmp_path, max_unlabelled=0.0)
    assert scorer.asked == [10]
    assert by_scorer(scorer, pairs(5), tmp_path, max_unlabelled=0.0) == first
    assert scorer.asked == [10]
    assert [one.why_not for one in first] == [None, TIED, None, None, None]
    assert [one.p > 0.5 for one in first] == [False, False, True, True, True]
    found = labelled_pairs_of(pairs(5), first, labeller="longer", policy="mine")
    assert [(pair.id, len(pair.chosen)) for pair in found.pairs] == [("p1", 2), ("p3", 3), ("p4", 4), ("p5", 5)]
    assert dict(found.unwritten) == {TIED: 1}


def test_what_has_no_label_is_asked_for_again_and_stops_it_where_it_is_too_much(tmp_path):
    scorer = Longer(silent=(4, 5), times=2)  # the call, and the one for its reason
    with pytest.raises(RewardError, match=r"2 of 5 new pairs have no label \(lost its voice\); 3 labels are kept"):
        by_scorer(scorer, pairs(5), tmp_path, max_unlabelled=0.3)
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 3
    said = by_scorer(scorer, pairs(5), tmp_path, max_unlabelled=0.3)
    assert scorer.asked == [10, 2, 4]
    assert all(one.why_not in (None, TIED) for one in said)


def test_a_small_share_without_a_label_is_left_out_and_counted(tmp_path):
    said = by_scorer(Longer(silent=(5,)), pairs(5), tmp_path, max_unlabelled=0.2)
    found = labelled_pairs_of(pairs(5), said, labeller="longer", policy="mine")
    assert dict(found.unwritten) == {TIED: 1, "no label": 1}


def test_a_line_that_was_cut_off_is_labelled_again(tmp_path):
    whole = by_scorer(Longer(), pairs(5), tmp_path, max_unlabelled=0.0)
    journal = tmp_path / JOURNAL
    journal.write_text(journal.read_text()[:-20])
    scorer = Longer()
    assert by_scorer(scorer, pairs(5), tmp_path, max_unlabelled=0.0) == whole
    assert scorer.asked == [2]
    assert len(journal.read_text().splitlines()) == 5


def test_a_labeller_that_answers_nothing_is_not_asked_for_the_rest(tmp_path):
    scorer = Longer(silent=tuple(range(200)))
    with pytest.raises(RewardError, match="100 of 100 new pairs"):
        by_scorer(scorer, pairs(100), tmp_path, max_unlabelled=0.5)
    assert scorer.asked == [64, 2]


def test_people_see_the_answers_in_an_order_that_says_nothing_of_whose_they_are(tmp_path):
    asked = pairs(40)
    assert isinstance(by_people(asked, tmp_path, seed=0), Waiting)
    rows = read(tmp_path)
    assert [row["id"] for row in rows] == [pair.id for pair in asked]
    turned = sum(row["a"] == pair.rejected and row["b"] == pair.chosen for row, pair in zip(rows, asked, strict=True))
    assert 10 < turned < 30
    fill(tmp_path, [{**row, "better": longer(row["a"], row["b"])} for row in rows])
    said = by_people(asked, tmp_path, seed=0)
    found = labelled_pairs_of(asked, said, labeller="people", policy="mine")
    assert [len(pair.chosen) for pair in found.pairs] == [max(i, 2) for i in range(1, 41)]
    assert [pair.preference for pair in found.pairs] == [1.0, *[1.0 if i != 2 else 0.5 for i in range(2, 41)]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{**rows[0], "id": "q9"}, *rows[1:]], r"line 1: the id 'q9' was not written out"),
        (lambda rows: [*rows, rows[0]], r"line 4: the id 'p1' stands there twice"),
        (lambda rows: rows[1:], r"lacks 1 of the pairs that were written out, such as p1"),
        (lambda rows: [{**rows[0], "better": "c"}, *rows[1:]], r"line 1: better is 'c' for 'p1': give a, b, tie or skip"),
        (lambda rows: [{**rows[0], "a": "other"}, *rows[1:]], r"line 1: a of 'p1' was changed: only fill in better"),
        (lambda rows: [["a"], *rows[1:]], r"line 1 is no JSON object with an id"),
    ],
    ids=["id", "twice", "lost", "label", "text", "form"],
)
def test_a_file_that_is_not_the_one_that_was_written_out_is_refused_with_its_line(tmp_path, change, message):
    asked = pairs(3)
    by_people(asked, tmp_path, seed=0)
    fill(tmp_path, change([{**row, "better": "a"} for row in read(tmp_path)]))
    with pytest.raises(DataError, match=message):
        by_people(asked, tmp_path, seed=0)


def test_rows_with_the_id_and_the_label_alone_will_do_and_others_wait(tmp_path):
    asked = pairs(3)
    by_people(asked, tmp_path, seed=0)
    fill(tmp_path, [{"id": "p1", "better": "a"}, {"id": "p2"}, {"id": "p3", "better": ""}])
    waiting = by_people(asked, tmp_path, seed=0)
    assert isinstance(waiting, Waiting)
    assert "2 of 3 pairs" in waiting.told
    assert "p2 is the first" in waiting.told


def longer(a: str, b: str) -> str:
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else " B "


def read(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / TO_LABEL).read_text().splitlines()]


def fill(folder, rows) -> None:
    (folder / TO_LABEL).write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
