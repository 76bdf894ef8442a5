"""Published figures of recorded judges, recomputed from their verdicts without any model. Skipped where the data are not here."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from assay.cli import main
from assay.data.pairs import read_pairs
from assay.data.raw.rows import read_rows
from assay.data.recorded import (
    LLMBAR_SETS,
    RecordedPairs,
    read_autoj_critiques,
    read_feedback,
    read_llmbar,
    read_pandalm,
    read_vicuna_reviews,
    two_scores,
)
from assay.evaluation.verdict_figures import label_figures, order_figures
from assay.records import PreferencePair
from assay.scorers.base import prefer
from assay.scorers.jury import Jury
from assay.scorers.recorded_judge import RecordedJudge, RecordedRater
from assay.stats.agreement import cohens_kappa, krippendorff_alpha
from assay.stats.votes import dawid_skene, majority, right_of_two

DATA = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(not (DATA / "llmbar").is_dir(), reason="the shared data are not here")


@cache
def llmbar() -> dict[str, RecordedPairs]:
    return read_llmbar(DATA / "llmbar")


@cache
def published() -> dict[tuple[str, str], dict]:
    rows = [row for _, row in read_rows(DATA / "llmbar" / "judge_statistics.jsonl.gz")]
    return {(row["subset"], f"{row['evaluator']}/{row['strategy']}"): row for row in rows if row["subset"] in LLMBAR_SETS}


@cache
def pandalm() -> RecordedPairs:
    return read_pandalm(DATA / "pandalm")


def percent(text: str) -> float:
    return float(re.fullmatch(r"(?:.* = )?([\d.]+)%", text)[1]) / 100


def test_llmbar_shares_of_all_89_rows():
    assert len(published()) == 89
    wrong = []
    for (name, judge), row in published().items():
        recorded = llmbar()[name]
        found = order_figures(recorded.judges[judge].counted_N2, recorded.gold_N, recorded.prompts_N, missing="wrong")
        columns = {"correct_False": found.given, "correct_True": found.swapped, "correct_average": found.average}
        columns |= {"correct_both": found.both, "equal": found.equal}
        wrong += [(name, judge, key) for key, metric in columns.items() if abs(metric.value - percent(row[key])) > 1e-9]
    assert wrong == []


def test_llmbar_kappas_count_a_missing_verdict_as_the_second_answer():
    as_second, honest = 0, 0
    for (name, judge), row in published().items():
        recorded = llmbar()[name]
        for missing in ("second", "left out"):
            kappa = order_figures(
                recorded.judges[judge].counted_N2, recorded.gold_N, recorded.prompts_N, missing=missing
            ).kappa.value
            is_same = abs(kappa - row["kappa_agreement"]) < 1e-6
            as_second, honest = as_second + (missing == "second" and is_same), honest + (missing == "left out" and is_same)
    assert (as_second, honest) == (89, 67)


def test_llmbar_kappa_with_the_label_is_not_cohens():
    recorded = llmbar()["natural"]
    kappa = cohens_kappa(recorded.judges["GPT-4/Vanilla"].first_N2[:, 0], recorded.gold_N).value
    assert published()[("natural", "GPT-4/Vanilla")]["kappa_False"] == pytest.approx(0.268, abs=5e-4)
    assert kappa == pytest.approx(0.898, abs=5e-4)


def test_llmbar_170_verdicts_are_missing_and_132_ties_of_scores_are_published_as_wins():
    judges = [judge for recorded in llmbar().values() for judge in recorded.judges.values()]
    missing: dict[str, int] = {}
    for judge in judges:
        for reason, number in judge.missing.items():
            missing[reason] = missing.get(reason, 0) + number
    assert missing == {"empty reply": 116, "filtered by content policy": 38, "no verdict in the reply": 16}
    tied = [judge for judge in judges if np.any(judge.first_N2 == 0.5)]
    assert sum(int(np.sum(judge.first_N2[:, 0] == 0.5)) for judge in tied) == 132
    for judge in tied:  # the answer that was shown second
        assert set(map(tuple, judge.counted_N2[judge.first_N2[:, 0] == 0.5])) == {(0.0, 1.0)}


@pytest.mark.parametrize(
    ("name", "gpt_4", "chatgpt"),
    [("natural", 0.030, 0.320), ("mtbench", 0.130, 0.425), ("llmeval2", 0.125, 0.280), ("faireval", 0.303, 0.818)],
)
def test_llmbar_flips_on_swap(name, gpt_4, chatgpt):
    recorded = llmbar()[name]
    for judge, flips in (("GPT-4", gpt_4), ("ChatGPT", chatgpt)):
        verdicts = recorded.judges[f"{judge}/Vanilla_NoRules"]
        found = order_figures(verdicts.counted_N2, recorded.gold_N, recorded.prompts_N, missing="wrong")
        assert found.flips.value == pytest.approx(flips, abs=5e-4)
        honest = order_figures(verdicts.first_N2, recorded.gold_N, recorded.prompts_N)
        assert honest.flips.n_scored == len(recorded.pairs) - np.isnan(verdicts.first_N2).any(1).sum()


def test_pandalm_of_its_own_judge():
    recorded = pandalm()
    found = label_figures(recorded.judges["PandaLM-7B"].first_N2[:, 0], recorded.gold_N, recorded.prompts_N)
    assert [round(x, 4) for x in (found.accuracy.value, found.precision, found.recall, found.f1)] == [
        0.6677,
        0.5738,
        0.5750,
        0.5743,
    ]


def test_pandalm_of_gpt_3_5_counts_25_unreadable_replies_as_ties():
    recorded = pandalm()
    verdicts = recorded.judges["GPT-3.5"]
    found = label_figures(verdicts.first_N2[:, 0], recorded.gold_N, recorded.prompts_N, missing="tie")
    assert [round(x, 4) for x in (found.accuracy.value, found.precision, found.recall, found.f1)] == [
        0.7107,
        0.5879,
        0.5736,
        0.5755,
    ]
    assert np.array_equal(verdicts.counted_N2[:, 0], np.nan_to_num(verdicts.first_N2[:, 0], nan=0.5))
    honest = label_figures(verdicts.first_N2[:, 0], recorded.gold_N, recorded.prompts_N)
    assert (round(honest.accuracy.value, 4), honest.accuracy.n_scored, honest.accuracy.n) == (0.7156, 974, 999)


def test_pandalm_of_its_people():
    votes_NR = pandalm().votes_NR
    kappas = [cohens_kappa(votes_NR[:, i], votes_NR[:, j]).value for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [round(kappa, 3) for kappa in kappas] == [0.852, 0.879, 0.862]
    assert krippendorff_alpha(votes_NR).value == pytest.approx(0.8642, abs=5e-5)


@pytest.mark.parametrize(
    ("file", "interval", "ordinal", "nominal"),
    [("mt_bench_eval", 0.8510, 0.8145, 0.4874), ("vicuna_eval", 0.8075, 0.7234, 0.5822)],
)
def test_feedback_of_three_samples(file, interval, ordinal, nominal):
    recorded = read_feedback(DATA / "feedback-absolute" / f"{file}.jsonl.gz")
    alphas = [krippendorff_alpha(recorded.ratings_NR, scale=scale).value for scale in ("interval", "ordinal", "nominal")]
    assert alphas == pytest.approx([interval, ordinal, nominal], abs=5e-5)
    rewards = RecordedRater(recorded).score(recorded.completions)
    assert np.allclose(rewards.value, recorded.ratings_NR.mean(1))


def test_vicuna_reviews_by_a_strict_parser():
    rows = [row for _, row in read_rows(DATA / "vicuna-bench-reviews" / "gpt4_reviews.jsonl.gz")]
    found = [(two_scores(row["text"]), tuple(row["score"])) for row in rows]
    assert (len(found), sum(scores is None for scores, _ in found)) == (1040, 39)
    assert sum(scores == stored for scores, stored in found) == 1001


def test_vicuna_reviews_against_people():
    reviews = read_vicuna_reviews(DATA / "vicuna-bench-reviews")
    recorded = reviews["vicuna-13b_20230322-clean-lang/review_gpt35_vicuna-13b.jsonl"]
    verdicts = recorded.judges["GPT-4"]
    stored = label_figures(verdicts.counted_N2[:, 0], recorded.gold_N, recorded.prompts_N)
    assert (round(stored.accuracy.value, 3), round(stored.kappa.value, 3)) == (0.525, 0.228)
    honest = label_figures(verdicts.first_N2[:, 0], recorded.gold_N, recorded.prompts_N)
    assert (round(honest.accuracy.value, 3), honest.accuracy.n_scored) == (0.506, 77)


@pytest.mark.parametrize(
    ("name", "strategy", "by_majority", "by_dawid_skene"),
    [
        ("natural", "Metrics_Reference", 0.940, 0.950),
        ("mtbench", "Vanilla_NoRules", 0.790, 0.805),
        ("faireval", "Vanilla_NoRules", 0.742, 0.712),
    ],
)
def test_llmbar_juries_have_no_gain_to_boast_of(name, strategy, by_majority, by_dawid_skene):
    recorded = llmbar()[name]
    votes_NJ = np.concatenate([v.first_N2 for judge, v in recorded.judges.items() if judge.endswith(f"/{strategy}")], axis=1)
    assert np.mean(right_of_two(majority(votes_NJ), recorded.gold_N)) == pytest.approx(by_majority, abs=5e-4)
    found = dawid_skene(1 - votes_NJ, num_classes=2)
    right_N = right_of_two(found.posterior_NK[:, 0], recorded.gold_N)
    assert found.has_converged
    assert np.mean(right_N) == pytest.approx(by_dawid_skene, abs=5e-4)
    alone = recorded.judges[f"GPT-4/{strategy}"]
    best = max(np.mean(right_of_two(alone.first_N2[:, order], recorded.gold_N)) for order in (0, 1))
    assert best > max(by_majority, by_dawid_skene), "the best judge alone, in its better order"
    if name == "natural":
        assert best == pytest.approx(0.97)


def test_a_recorded_judge_and_a_jury_of_them_are_scorers():
    recorded = llmbar()["natural"]
    pairs = [pair for pair in recorded.pairs if pair is not None]
    orders = [
        RecordedJudge(recorded, judge, order=order)
        for judge in recorded.judges
        if judge.endswith("/Metrics_Reference")
        for order in ("given", "swapped")
    ]
    p_P = prefer(Jury(orders), pairs)
    assert np.mean(right_of_two(p_P, recorded.gold_N)) == pytest.approx(0.940)
    turned = [PreferencePair(prompt=p.prompt, chosen=p.rejected, rejected=p.chosen) for p in pairs]
    assert np.allclose(prefer(Jury(orders), turned), 1 - p_P)


def test_a_record_is_evaluated_by_its_name(tmp_path, capsys):
    file = DATA / "llmbar" / "llmeval2.jsonl.gz"
    words = ["evaluate", f"recorded:{DATA / 'llmbar'}#PaLM2/Vanilla_NoRules", "--data", str(file), "--out", str(tmp_path)]
    assert main(words) == 0
    kept = json.loads((tmp_path / "eval" / "llmeval2.json").read_text())
    accuracy = next(metric for metric in kept["metrics"] if metric["name"] == "accuracy")
    pairs = list(read_pairs(file))
    verdicts = llmbar()["llmeval2"].judges["PaLM2/Vanilla_NoRules"]
    given = ~np.isnan(RecordedJudge(llmbar()["llmeval2"], verdicts.judge).compare(pairs))
    assert (accuracy["n_scored"], accuracy["n"]) == (given.sum(), len(pairs))
    assert 0 < len(pairs) - given.sum() <= np.isnan(verdicts.first_N2).any(1).sum()
    assert "empty reply" in json.dumps(kept)


def test_auto_j_critiques_all_hold_a_rating():
    recorded = read_autoj_critiques(DATA / "autoj" / "critique_test.jsonl.gz")
    assert recorded.ratings_NR.shape == (119, 1)
    assert not np.isnan(recorded.ratings_NR).any()
