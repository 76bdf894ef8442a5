"""benchmarks/overoptimization_rl.py: its outcomes and tests worked out by hand, and one run from end to end in a world too small
for any figure."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark_documents import printed

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import overoptimization_rl
from overoptimization_distance import BEST_OF_N, chosen, distance_table, forms, gains_of
from overoptimization_table import END, PEAK, STOPPED, claims, comparisons, curves_page, examples_of, outcomes, summary

FOLDER = Path(__file__).parents[1] / "benchmarks"
KL = [0.0, 1.0, 4.0, 9.0]


def kept(gold: list[float], kl: list[float] = KL) -> dict:
    reward = [0.1 * one for one in range(len(gold))]
    return {"steps": [-1, 3, 7, 11], "kl": kl, "reward": reward, "gold": gold, "accuracy": 0.7, "cpu_seconds": 1.0}


FOUND = {
    "single": {0: kept([2, 3, 2, 1]), 1: kept([2, 2.5, 3, 0]), 2: kept([2, 3, 2.5, 1.5])},
    "beta high": {0: kept([2, 2.5, 2.5, 2.5]), 1: kept([2, 2.5, 2.75, 2.75]), 2: kept([2, 2, 2, 2.5])},
    "gold itself": {0: kept([2, 3, 3.5, 4]), 1: kept([2, 3, 3.5, 4]), 2: kept([2, 3, 3.5, 4])},
}


def test_the_rule_stops_a_replicate_where_the_others_were_best():
    table = outcomes(FOUND)
    assert table[END]["single"] == {0: -1, 1: -2, 2: -0.5}
    assert table[PEAK]["single"] == {0: 1, 1: 1, 2: 1}
    # of 1 and 2: gains at KL 1: (.5 + 1) / 2, at 4: (1 + .5) / 2, the lower is taken; of 0 and 2: KL 1; of 0 and 1: KL 1
    assert table[STOPPED]["single"] == {0: 1, 1: 0.5, 2: 1}


def test_one_replicate_has_no_others_to_fix_a_rule_on():
    one = {arm: {0: by[0]} for arm, by in FOUND.items()}
    assert outcomes(one)[STOPPED]["single"] == {}
    said = claims(one, single="single", gold="gold itself", strong="beta high", kl_arms=["beta high"], ensembles=[])
    assert said["2: then it falls, below the start too"] is None


def test_families_are_paired_and_adjusted_by_holm():
    table = outcomes(FOUND | {"min": {0: kept([2, 2, 2, 2]), 1: kept([2, 2, 2, 2])}})
    families = comparisons(table, "single", ["beta high"])
    at_end = families["gold at the end, less that of single"]
    assert set(at_end) == {"beta high", "min"}
    assert at_end["beta high"]["mean"] == pytest.approx((1.5 + 2.75 + 1) / 3, abs=1e-4)
    assert at_end["beta high"]["p"] == 0.25  # the least of three replicates
    assert at_end["min"]["num"] == 2
    assert at_end["beta high"]["holm"] == 0.5  # two in the family
    assert families["KL control to the end, less early stopping"]["beta high"]["mean"] == pytest.approx(
        (0.5 + 0.75 + 0.5) / 3 - 2.5 / 3, abs=1e-4
    )


def test_claims_say_what_was_seen_and_none_where_nothing_was_run():
    said = claims(FOUND, single="single", gold="gold itself", strong="beta high", kl_arms=["beta high"], ensembles=["min"])
    values = list(said.values())
    assert values[0] is True  # 2.5 / 3 of 2
    assert values[2] is None  # no ensemble was run
    assert values[3] is (comparisons(outcomes(FOUND), "single", [])["gold at the end, less that of single"]["beta high"]["low"] > 0)
    assert values[4] is True
    healthy = {"single": {r: kept([2, 3, 4, 5]) for r in range(3)}, "gold itself": FOUND["gold itself"]}
    said = claims(healthy, single="single", gold="gold itself", strong="beta high", kl_arms=[], ensembles=[])
    assert said["2: then it falls, below the start too"] is not True


def test_distance_and_gain_are_means_over_replicates():
    distance_E, gain_ER = gains_of(FOUND["single"])
    assert distance_E.tolist() == [0, 1, 2, 3]  # square roots of KL
    assert gain_ER.tolist() == [[0, 0, 0], [1, 0.5, 1], [0, 1, 0.5], [-1, -2, -0.5]]


def test_gaos_form_is_found_where_gold_follows_it():
    kl = [0.0, 0.25, 1.0, 4.0, 9.0]
    by_replicate = {
        r: kept([2 + (d * (1.5 + 0.01 * (r - 3.5) - math.log(d)) if d else 0.0) for d in map(math.sqrt, kl)], kl) for r in range(8)
    }  # alpha 1.5 in the mean, beta 1
    form = forms({"single": by_replicate})["single"]
    assert form["alpha"][0] == pytest.approx(1.5, abs=1e-3)
    assert form["beta"][0] == pytest.approx(1.0, abs=1e-3)
    assert form["holds"]
    assert form["peak"] == pytest.approx(math.exp(0.5), abs=1e-2)
    few = forms({"single": {r: one for r, one in by_replicate.items() if r < 4}})["single"]
    assert not few["holds"]
    assert "8 are needed" in few["caveat"]


def test_best_of_n_stands_beside_the_arms():
    best = {0: {"n": [1, 2], "gold": [1.0, 1.5]}, 1: {"n": [1, 2], "gold": [2.0, 2.1]}}
    assert [one["gain"][0] for one in chosen(best)["sizes"]] == [0.0, pytest.approx(0.3)]
    assert chosen({}) == {}
    table = distance_table(FOUND, best, ["single", "not run"])
    assert table.columns == ("square root of KL", "single", BEST_OF_N)
    shown = [(row[0], row[2]) for row in table.rows if not math.isnan(row[2])]
    assert shown == [(0.0, 0.0), (pytest.approx(math.sqrt(math.log(2) - 0.5)), pytest.approx(0.3))]
    assert BEST_OF_N not in distance_table(FOUND, {}).columns


def test_arms_that_belong_together_are_drawn_together():
    page = curves_page(FOUND, {}, figures={"penalties": ("single", "beta high"), "labels": ("500 labels",)})
    drawn = {table.title: table.columns for table in page.tables if table.title.startswith("gold by step")}
    assert drawn == {
        "gold by step: penalties": ("step", "single", "beta high"),
        "gold by step: gold itself": ("step", "gold itself"),
    }


def test_the_page_draws_gold_against_reward_of_each_arm():
    page = curves_page(FOUND, comparisons(outcomes(FOUND), "single", ["beta high"]))
    drawn = [table for table in page.tables if table.chart == "line"]
    assert [table.title for table in drawn][1:] == [f"{arm}: gold against reward" for arm in FOUND]
    assert drawn[0].rows[-1][:2] == (12, pytest.approx(-3.5 / 3))
    assert [metric[4:6] for metric in page.metrics] == [(3, 3)] * 3
    assert summary(FOUND)["single"]["KL at the end"][0] == 9


def test_examples_are_the_answers_with_the_highest_reward_before_training_and_at_the_end():
    turns = [{"role": "user", "content": "tea"}]
    rows = [
        {"step": step, "kind": kind, "prompt": turns, "response": f"{kind} {step}", "reward": 1.0, "gold": 0.0, "error": None}
        for step in (-1, 3, 7)
        for kind in ("best", "best", "worst")
    ]
    chosen = examples_of(rows, "single", num=1)
    assert [(one["kind"], one["response"]) for one in chosen] == [
        ("single: highest reward before training", "best -1"),
        ("single: highest reward after step 8", "best 7"),
    ]
    assert examples_of([], "single") == []


@pytest.mark.slow
def test_a_run_that_goes_on_gives_the_same_document(tmp_path):
    arms = ["single", "adaptive KL", "robust of seeds", "gold itself"]
    words = ["--quick", "--keep", str(tmp_path / "kept"), "--page", str(tmp_path / "page.html"), "--arms", *arms]
    said = printed(overoptimization_rl.main, *words)
    first = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    command = [
        sys.executable,
        str(FOLDER / "overoptimization_rl.py"),
        *words,
        "--there",
    ]  # another process, which runs nothing: all that it knows was kept
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    second = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert all(str(tmp_path / "page.html")[-20:] in out for out in (said, done.stdout))
    assert first["arms"] == second["arms"]
    assert set(first["replicates"]) == set(arms)
    assert set(first["arms"]["single"]) >= {"gold at the end", "KL at the end", "held-out accuracy"}
    assert all(math.isfinite(one["gold at the end"][0]) for one in first["arms"].values())
    assert {"8,000 labels", "wider model"} <= set(first["not run"])
    assert "gold against reward" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "kept").rglob("checkpoints/step-*/*.safetensors"))
