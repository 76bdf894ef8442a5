"""Openers are found in the answers, moved alone, and what is paid for them is measured to the number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.audit.attribution.openers import find_openers, opener_effects, opener_parts, plan_edits
from assay.records import Completion, PreferencePair, Rewards


class SurePays:
    """`bonus` for an answer that begins with "Sure, here"; else a hash of the rest, so that nothing but the opener moves."""

    fingerprint, scope, tolerance = "sure", "global", 0.0

    def __init__(self, bonus: float) -> None:
        self.bonus = bonus

    def score(self, completions: list[Completion]) -> Rewards:
        return Rewards(value=np.array([self.bonus * str(c.response).startswith("Sure, here") for c in completions], np.float32))


def pairs_with_openers() -> list[PreferencePair]:
    """40 prompts: half of the chosen answers begin with "Sure, here is", a quarter of the rejected ones with "No. That"."""
    pairs = []
    for i in range(40):
        chosen = f"Sure, here is answer number {i}." if i % 2 else f"Word{i} is what it says {i}."
        rejected = f"No. That is not so in case {i}." if i % 4 == 0 else f"Other{i} is what it says {i}."
        pairs.append(PreferencePair(prompt=f"question {i}", chosen=chosen, rejected=rejected, id=str(i)))
    return pairs


def test_openers_are_the_longest_beginnings_that_are_shared():
    found = find_openers(pairs_with_openers())
    assert [(opener.text, opener.num_answers, opener.num_prompts) for opener in found] == [
        ("Sure, here is answer", 20, 20),
        ("No. That is not", 10, 10),
    ]
    assert find_openers(pairs_with_openers(), most=1)[0].text == "Sure, here is answer"
    assert find_openers(pairs_with_openers(), min_prompts=11) == found[:1]
    assert find_openers(pairs_with_openers()[:4]) == ()


def test_a_beginning_that_goes_on_in_many_ways_is_kept_beside_a_frequent_longer_one():
    texts = ["It is so", *(f"It {verb} then" for verb in ("was", "may", "can", "did", "had"))]
    pairs = [PreferencePair(prompt=f"q {i}", chosen=f"{texts[i % 6]} in case {i}", rejected=f"r{i} x") for i in range(36)]
    assert next(opener for opener in find_openers(pairs, most=20) if opener.text == "It").num_prompts == 36


def test_one_answer_that_stands_in_many_pairs_counts_once():
    pairs = [PreferencePair(prompt="one", chosen="Sure, here it is", rejected=f"word{i} x") for i in range(30)]
    assert find_openers(pairs) == ()


def test_edits_move_the_opener_alone_and_stay_within_the_budget():
    pairs = pairs_with_openers()
    openers = find_openers(pairs)
    edits = plan_edits(pairs, openers, 60, seed=0)
    assert len(edits) <= 60
    for edit in edits:
        assert edit.after.messages == edit.before.messages
        before, after = str(edit.before.response), str(edit.after.response)
        if edit.way == "added":
            assert after == f"{edit.opener.text} {before}"
            assert not any(before.startswith(opener.text) for opener in openers)
        else:
            rest = before.removeprefix(edit.opener.text).strip()
            assert after == rest[:1].upper() + rest[1:]
    assert {(edit.opener.text, edit.way) for edit in edits} == {(o.text, way) for o in openers for way in ("added", "removed")}
    assert plan_edits(pairs, openers, 60, seed=0) == edits
    with pytest.raises(ValueError, match="5 edits are too few for 2 openers: give at least 6"):
        plan_edits(pairs, openers, 5, seed=0)
    assert plan_edits(pairs, (), 5, seed=0) == []


def test_what_is_paid_for_an_opener_is_told_in_median_margins():
    pairs = pairs_with_openers()
    effects = opener_effects(SurePays(3.0), plan_edits(pairs, find_openers(pairs), 120, seed=0), 2.0, seed=0)
    found = {(effect.opener.text, effect.way): effect for effect in effects}
    for way in ("added", "removed"):
        effect = found["Sure, here is answer", way]
        assert effect.rise == pytest.approx(1.5)
        assert effect.q < 0.01
        assert found["No. That is not", way].rise == 0
        assert found["No. That is not", way].q == 1.0
    assert found["Sure, here is answer", "added"].beyond == pytest.approx(0.75), "less the mean of 1.5 and 0"
    metrics, tables, findings = opener_parts(effects)
    assert metrics[0].value == pytest.approx(1.5)
    assert len(tables[0].rows) == 4
    assert (findings[0].level, findings[0].value) == ("warn", pytest.approx(1.5))


def test_a_model_that_pays_for_no_opener_is_not_accused():
    pairs = pairs_with_openers()
    effects = opener_effects(SurePays(0.0), plan_edits(pairs, find_openers(pairs), 120, seed=0), 2.0, seed=0)
    assert opener_parts(effects)[2][0].level == "ok"
    assert opener_parts(())[2][0].why.startswith("not checked")
    assert opener_parts(())[2][0].level == "warn", "what was not measured is not ok"
    with pytest.raises(ValueError, match="no unit"):
        opener_effects(SurePays(0.0), plan_edits(pairs, find_openers(pairs), 120, seed=0), 0.0, seed=0)


def test_what_cannot_be_scored_is_counted_and_no_zero():
    class Fails(SurePays):
        def score(self, completions):
            value = super().score(completions).value
            value[[str(c.response).startswith("No.") for c in completions]] = np.nan
            return Rewards(value=value)

    pairs = pairs_with_openers()
    effects = opener_effects(Fails(3.0), plan_edits(pairs, find_openers(pairs), 120, seed=0), 2.0, seed=0)
    failed = [effect for effect in effects if effect.opener.text.startswith("No.")]
    assert all(math.isnan(effect.rise) and effect.num_scored == 0 and effect.num_edits > 0 for effect in failed)
    assert opener_parts(effects)[0][0].value == pytest.approx(1.5)
