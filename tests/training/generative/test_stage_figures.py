"""Figures of stages: no verdict is not a half, and a stage that gains nothing is said to gain nothing."""

import numpy as np
import pytest

from assay.records import PreferencePair
from assay.training.generative import stage_figures as f
from assay.training.generative.stage_figures import StageFigures, stage_report

PAIRS = [PreferencePair(prompt=f"q {i}", chosen="a", rejected="b", preference=1.0 if i % 4 else 0.2) for i in range(40)]
GOLD = np.array([pair.preference for pair in PAIRS])


def figures(stage, right, unread=0, agree=True):
    """`right` of the 40 pairs judged as their label has it, the first ones; the last `unread` without a verdict."""
    said = [0.9 if (i < right) == (GOLD[i] > 0.5) else 0.1 for i in range(40)]
    said[40 - unread :] = [None] * unread
    return StageFigures(
        stage=stage,
        probabilities=tuple(said),
        agree=tuple(None if one is None else agree for one in said),
        judgements=80,
        tokens_read=8000,
        tokens_written=1600,
        seconds=20.0,
        errors={"cut off": unread} if unread else {},
    )


def test_a_pair_without_a_verdict_is_not_right_and_no_half():
    one = figures("sft", right=30, unread=10)
    assert one.right_P(GOLD).sum() == 30
    report = stage_report([one], PAIRS, name="toys")
    assert report.metric(f.RIGHT).value == 0.75
    assert report.metric(f.ACCURACY).value == 1.0
    assert report.metric(f.ACCURACY).n_scored == 30
    assert report.metric(f.UNREAD).value == 0.25
    (finding,) = [one for one in report.findings if one.name == f.UNREAD]
    assert finding.level == "warn"
    assert "10 x cut off" in finding.why


def test_an_even_probability_is_half_right():
    half = StageFigures(
        stage="sft",
        probabilities=(0.5, None),
        agree=(True, None),
        judgements=4,
        tokens_read=0,
        tokens_written=0,
        seconds=0.0,
        errors={},
    )
    assert half.right_P(np.array([1.0, 1.0])).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("before", "after", "level", "says"),
    [(20, 38, "ok", "+0.450"), (30, 31, "warn", "no gain"), (30, 30, "warn", "no gain"), (36, 15, "fail", "a loss")],
)
def test_a_stage_is_held_against_the_one_before(before, after, level, says):
    report = stage_report([figures("sft", before), figures("star", after)], PAIRS, name="toys")
    (finding,) = [one for one in report.findings if one.name == "gain of star"]
    assert finding.level == level
    assert says in finding.why
    assert finding.value == pytest.approx((after - before) / 40)


def test_price_and_consistency_stand_beside_the_figures():
    report = stage_report([figures("base", 20), figures("sft", 30, agree=False)], PAIRS, name="toys")
    assert report.metric(f.CONSISTENT).value == 0.0
    assert report.metric("tokens read a judgement").value == 100
    assert report.metric("tokens written a judgement").value == 20
    assert report.metric("seconds a judgement").value == 0.25
    assert [row[0] for row in report.tables[0].rows] == ["base", "sft"]


def test_figures_come_back_from_their_file():
    one = figures("sft", 30, unread=3)
    assert StageFigures.from_json(one.to_json()) == one
