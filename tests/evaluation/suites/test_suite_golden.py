"""The figures that come with the data sets themselves, reproduced. Skipped where the data folder (ASSAY_DATA) is absent."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.data.cases import Case
from assay.data.raw.rows import read_rows
from assay.evaluation.suites import marking as rules
from assay.evaluation.suites.answers import lengths
from assay.evaluation.suites.catalog import SUITES
from assay.evaluation.suites.lookup import LoadedSuite, load_suite
from assay.evaluation.suites.marks import Mark
from assay.messages import as_messages

DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[4] / "shared" / "data")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (DATA / "rmb").is_dir(), reason="the data folder is not here")]


@cache
def suite(name: str) -> LoadedSuite:
    return load_suite(name, DATA)


def share(marks: list[Mark]) -> float:
    return sum(mark.total for mark in marks) / sum(mark.num_scored for mark in marks)


def half_of_ties(rule: rules.Rule, cases: Sequence[Case], ending: str) -> float:
    """The share that the longer answer wins, equal lengths as half a win."""
    longer = lengths(cases)
    marks = [rule(cases, rewards, 0) for rewards in (longer, [-rewards_N for rewards_N in longer])]
    won, lost = (share([mark for mark in found if mark.part.endswith(ending)]) for found in marks)
    return (won + 1 - lost) / 2


def test_rm_bench_798_prompts_7182_comparisons_and_longer_wins():
    """Longer wins: .86 easy, .41 normal, .13 hard over all rows, with equal lengths as half; as losses, as upstream has it, .40."""
    loaded = suite("rm-bench")
    marks = rules.styles(loaded.cases, lengths(loaded.cases))
    assert (len(loaded.cases), sum(mark.num for mark in marks)) == (798, 7182)
    kinds = (rules.EASY, rules.NORMAL, rules.HARD)
    won = [share([mark for mark in marks if mark.part.endswith(kind)]) for kind in kinds]
    half = [half_of_ties(rules.styles, loaded.cases, kind) for kind in kinds]
    assert [round(value, 2) for value in half] == [0.86, 0.41, 0.13]
    assert [round(value, 2) for value in won] == [0.86, 0.40, 0.13]
    assert loaded.missing == ("math",)
    assert Counter(case.section for case in loaded.cases) == {"chat": 129, "code": 228, "safety": 441}


def test_rmb_9176_pairs_2269_lists_and_longer_wins():
    """Longer wins: .65 of the pairs on helpfulness, .55 on harmlessness, with equal lengths as half."""
    loaded = suite("rmb")
    assert Counter(case.section.partition(":")[0] for case in loaded.cases) == {"pairs": 9176, "best of n": 2269}
    cases = [case for case in loaded.cases if case.section.startswith("pairs")]
    assert round(half_of_ties(rules.pairs, cases, "helpfulness"), 2) == 0.65
    assert round(half_of_ties(rules.pairs, cases, "harmlessness"), 2) == 0.55


def test_the_recorded_scores_of_armorm_on_rmb_are_judged_as_recorded():
    rows = rows_of(DATA / "rmb" / "recorded_scores_armorm.jsonl.gz")
    cases = [Case(prompt=as_messages(row["pair_uid"]), candidates=("a", "b"), gold=(1, 0), section="s") for row in rows]
    marks = rules.pairs(cases, [np.array([row["chosen_reward"], row["reject_reward"]]) for row in rows])
    assert len(rows) == 849
    assert [mark.total for mark in marks] == [row["is_correct"] for row in rows]


def test_alpaca_eval_660_prompts_and_longer_agrees_with_the_labels():
    """Longer than the reference, and label above 1/2: they agree on .81 (v1), .88 (v2). Without ties, a little less."""
    loaded = suite("alpacaeval")
    assert len({case.cluster for case in loaded.cases}) == 660
    assert sum(len(case.pairs or ()) for case in loaded.cases) == 64667 + 7185
    assert not loaded.set_aside
    for version, agreed, won in (("v1", 0.81, 0.80), ("v2", 0.88, 0.87)):
        cases = [case for case in loaded.cases if version in case.section]
        rows = []
        for case, rewards_N in zip(cases, lengths(cases), strict=True):
            rows.append((rewards_N[1:] > rewards_N[0], np.array(case.gold[1:]) > 0.5))
        longer, preferred = (np.concatenate(column) for column in zip(*rows, strict=True))
        assert round(float(np.mean(longer == preferred)), 2) == agreed
        assert round(share(rules.pairs(cases, lengths(cases))), 2) == won


def test_xstest_976_pairs():
    cases = suite("xstest").cases
    marks = rules.pairs(cases, lengths(cases))
    assert sum(mark.num for mark in marks) == 976


def test_truthful_qa_has_its_share_of_the_98900_pairs():
    """About 98,900 pairs of a true and an untrue answer can be formed over 817 questions; here are 80% of the questions."""
    loaded = suite("truthfulqa")
    questions = len({case.cluster for case in loaded.cases})
    num_pairs = sum(mark.num for mark in rules.pairs(loaded.cases, lengths(loaded.cases)) if mark.part == "truth")
    assert questions == round(0.8 * 817)
    assert num_pairs / questions == pytest.approx(98_900 / 817, rel=0.01)


def test_pandalm_has_a_majority_for_all_999_and_879_unanimous_ones():
    loaded = suite("pandalm")
    counts = Counter(case.subset for case in loaded.cases)
    assert counts == {"3 of 3 agree": 879, "2 of 3 agree": 120}
    assert not loaded.set_aside


def test_auto_j_has_727_pairs_in_58_scenarios():
    loaded = suite("autoj")
    assert len(loaded.cases) == 727
    assert len({case.subset for case in loaded.cases}) == 58


def test_hhh_has_221_pairs_in_four_subsets():
    assert Counter(case.section for case in suite("hhh").cases) == {"honest": 61, "helpful": 59, "harmless": 58, "other": 43}
    assert suite("hhh").suite.size == 221


def test_hh_has_1157_dialogues():
    loaded = suite("hh")
    assert len(loaded.cases) + sum(loaded.set_aside.values()) == 1157


def test_the_verdicts_of_llmbar_s_judges_give_their_89_published_statistics():
    """A judge's verdict as rewards 1 and 0, an unreadable one as equal: `pairs` gives correct_False and correct_True."""
    labels: dict[str, str] = {}
    for name in SUITES["llmbar"].files.values():
        path = DATA / f"{name}.jsonl.gz"
        labels |= {row["id"]: str(row["label"]) for row in rows_of(path)} if path.is_file() else {}
    assert len(labels) == 881
    judged: dict[tuple[str, ...], list[tuple[str, dict[str, str | None]]]] = defaultdict(list)
    for row in rows_of(DATA / "llmbar" / "judge_outputs.jsonl.gz"):
        verdicts = {order: row["results"][-1][f"swap = {order}"]["winner"] for order in ("False", "True")}
        judged[row["id"].rpartition("-")[0], row["evaluator"], row["strategy"]].append((row["id"], verdicts))
    num_compared = 0
    for row in rows_of(DATA / "llmbar" / "judge_statistics.jsonl.gz"):
        rows = judged.get((row["subset"], row["evaluator"], row["strategy"]))
        if rows is None:
            continue
        right = {}
        for order in ("False", "True"):
            right[order] = np.array([verdict_is_right(labels[id], verdicts[order]) for id, verdicts in rows])
        num_compared += 1
        assert row["correct_False"].startswith(f"{right['False'].sum():.0f} / {len(rows)} ")
        assert row["correct_True"].startswith(f"{right['True'].sum():.0f} / {len(rows)} ")
        assert row["correct_both"].startswith(f"{(right['False'] * right['True']).sum():.0f} / {len(rows)} ")
    assert num_compared == 89


def verdict_is_right(label: str, winner: str | None) -> float:
    case = Case(prompt=as_messages("q"), candidates=("1", "2"), gold=(float(label == "1"), float(label == "2")), section="s")
    return rules.pairs([case], [np.array([float(winner == "1"), float(winner == "2")])])[0].total


def rows_of(path: Path) -> list[Any]:
    return [row for _, row in read_rows(path)]
