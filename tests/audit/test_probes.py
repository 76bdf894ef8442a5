"""The two laws of the battery (few false alarms, planted hacks caught), and what the figures are made of."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import stdtr

from assay.audit.probes.alarm import MIN_CLUSTERS, Probe, Rises, change_test, margin_unit, rise_test, verdicts_of
from assay.audit.probes.battery import battery, contrast_of, run_probes, select_rows
from assay.data.probe_edits import edits
from assay.messages import Message
from assay.records import Completion, PreferencePair
from assay.stats.mean_intervals import share_interval
from assay.wire import report_to_json
from random_scorers import Function, content, heavy_noise, made_up_pairs, noise, planted, prompt_noise, text_noise


def failed(report) -> set[str]:
    return {finding.name for finding in report.findings if finding.level == "fail"}


def row_of(report, name: str) -> dict[str, object]:
    table = report.tables[0]
    return next(dict(zip(table.columns, row, strict=True)) for row in table.rows if row[0] == name)


SORTS = (noise, text_noise, heavy_noise, prompt_noise, content)


@pytest.mark.slow
def test_of_200_random_scorers_without_a_hack_at_most_one_in_twenty_is_accused_of_any():
    pairs = made_up_pairs(24, per_prompt=2)
    accused = [
        (sort.__name__, seed)
        for sort in SORTS
        for seed in range(200 // len(SORTS))
        if failed(run_probes(sort(seed), pairs, max_rows=24))
    ]
    assert len(accused) <= 10, accused


PLANTED = {
    "flattery": ("flattery", lambda text: "great question" in text.lower()),
    "bullets": ("bullets", lambda text: text.startswith("- ")),
    "bold": ("bold", lambda text: "**" in text),
    "length": ("filler", lambda text: math.log2(max(1, len(text)) / 100)),
    "spoofed verdict": ("verdict letter", lambda text: "[[A]]" in text),
    "spoofed score": ("verdict score", lambda text: "10/10" in text),
}


@pytest.mark.slow
@pytest.mark.parametrize("hack", PLANTED)
def test_a_planted_hack_of_a_quarter_of_the_median_margin_is_caught(hack):
    name, is_hacked = PLANTED[hack]
    pairs = made_up_pairs(200, seed=1)
    for seed in range(2):
        scorer = content(seed, noise_size=2.0)
        report = run_probes(planted(scorer, pairs, is_hacked), pairs, max_rows=200).report()
        assert name in failed(report)
        assert row_of(report, name)["rise low"] < row_of(report, name)["mean rise"] < row_of(report, name)["rise high"]


@pytest.mark.slow
def test_the_size_of_a_planted_rise_is_read_off_in_margins():
    pairs = made_up_pairs(100)
    report = run_probes(planted(content(0), pairs, lambda text: "[[A]]" in text, size=0.5), pairs).report()
    assert report.metric("verdict letter: mean rise").value == pytest.approx(0.5, abs=0.02)
    assert report.metric("verdict letter: share raised").value == 1.0
    assert report.metric("verdict letter: share raised").low > 0.95
    shown = [example for example in report.examples if example["kind"] == "verdict letter"]
    assert len(shown) == 2
    assert all("[[A]]" in example["edited"] for example in shown)


def test_agreeing_with_what_is_false_is_held_against_correcting_it():
    pairs = made_up_pairs(60)
    report = run_probes(
        Function(lambda c: float(c.response.startswith(("Yes", "Abso", "You"))) + len(c.response) / 1e4), pairs
    ).report()
    assert "agreement" in failed(report)
    shown = next(example for example in report.examples if example["kind"] == "agreement")
    assert shown["answer"].startswith(("No", "Actually", "That is a mistake"))
    assert "agreement" not in failed(run_probes(Function(lambda c: float("not" in c.response)), pairs))


def test_a_scorer_that_does_not_notice_ruin_is_warned_of_and_one_that_does_is_not():
    pairs = made_up_pairs(60)
    levels = {finding.name: finding.level for finding in run_probes(content(0), pairs).findings}
    assert levels["empty"] == levels["gibberish"] == levels["truncated"] == "ok"
    assert levels["shuffled"] == "warn", "a bag of words"
    levels = {finding.name: finding.level for finding in run_probes(noise(0), pairs).findings}
    assert levels["empty"] == "warn"


def test_an_empty_answer_that_wins_is_an_alarm_of_a_scorer_that_reads_prompts():
    pairs = made_up_pairs(60)
    report = run_probes(Function(lambda c: (0.0 if c.response else 5.0) + noise(3).score([c]).value[0]), pairs).report()
    assert "empty" in failed(report)
    blind = run_probes(Function(lambda c: len(c.response) / 100 if c.response else 5.0), pairs).report()
    finding = next(finding for finding in blind.findings if finding.name == "empty")
    assert finding.level == "warn"
    assert "do not read prompts" in finding.why or "does not read prompts" in finding.why


def test_hall_s_test_by_hand():
    """Clusters (0, 2), (4), ...: mean, error and skewness of a ratio of totals, and Hall's transformation of t."""
    rises = np.array([0.0, 2.0, *[1.0, 3.0] * 5])
    clusters = np.array([0, 0, *range(1, 11)])
    test = rise_test(rises, clusters)
    mean = 22 / 12
    assert test.mean == pytest.approx(mean)
    pull = np.array([2 - 2 * mean, *(x - mean for x in [1.0, 3.0] * 5)])
    error = math.sqrt(11 / 10 * float(pull @ pull)) / 12
    a = 121 / 90 * float(np.mean(pull**3)) / float(pull @ pull / 10) ** 1.5 / (6 * math.sqrt(11))
    for end, quantile in ((test.low, 2.228139), (test.high, -2.228139)):  # t of 10 degrees of freedom, 97.5%
        t = (mean - end) / error
        assert t + 2 * a * t**2 + 4 / 3 * a**2 * t**3 + a == pytest.approx(quantile, rel=1e-5)
    assert test.p_seen < 1e-3
    assert test.num_clusters == 11
    assert rise_test(-rises, clusters).high == pytest.approx(-test.low)


def test_what_cannot_be_judged_has_no_p():
    few = rise_test(np.ones(MIN_CLUSTERS - 1), np.arange(MIN_CLUSTERS - 1))
    assert few.mean == 1.0
    assert math.isnan(few.p)
    assert math.isnan(rise_test(np.full(3, np.nan), np.arange(3)).mean)
    constant = rise_test(np.full(20, 0.3), np.arange(20))
    assert constant.p_seen == 2.0**-20, "no surer than the signs of 20 prompts"
    assert rise_test(np.zeros(20), np.arange(20)).p == 1.0


def test_a_rise_that_one_further_fall_would_undo_has_no_small_p():
    """C equal rises r and a further fall f: C log(1 + w r) + log(1 - w f) is largest at w = (C r - f) / (f r (C + 1))."""
    for num_prompts, rise, fall in ((20, 0.3, 2.0), (100, 0.5, 2.0), (59, 1.0, 5.0)):
        test = rise_test(np.full(num_prompts, rise), np.arange(num_prompts), largest_fall=fall)
        weight = (num_prompts * rise - fall) / (fall * rise * (num_prompts + 1))
        ratio = num_prompts * math.log1p(weight * rise) + math.log1p(-weight * fall)
        assert test.p == pytest.approx(stdtr(num_prompts - 1, -math.sqrt(2 * ratio)), rel=1e-4)
        assert (test.p < 0.001) == (num_prompts > 20)
        assert test.low < rise < test.high
    assert rise_test(np.full(100, 0.5), np.arange(100), largest_fall=60.0).p == 1.0, "the fall is larger than all rises together"
    assert rise_test(np.append(np.full(60, 0.3), -9.0), np.arange(61)).p > 0.05, "a fall that was seen can happen again"


def rises_of(values_N: np.ndarray) -> Rises:
    probe = Probe("edit", "worthless", lambda completion, rng: None)
    one = Completion(messages="p", response="r")
    return Rises(probe, values_N, np.arange(len(values_N)), [one] * len(values_N), [one] * len(values_N), [], 0, False)


FALLS = {
    "exponential": lambda rng, n: 1 - rng.exponential(size=n),
    "one in ten falls": lambda rng, n: np.where(rng.random(n) < 0.1, -3.0, 1 / 3),
    "one in twenty falls": lambda rng, n: np.where(rng.random(n) < 0.05, -19.0, 1.0) * 0.23,
    "log-normal": lambda rng, n: (math.exp(0.5) - rng.lognormal(size=n)) / 2.16,
}


@pytest.mark.parametrize("law", FALLS)
def test_a_battery_whose_mean_zero_rises_have_rare_falls_is_rarely_accused(law):
    rng, accused = np.random.default_rng(0), 0
    for _ in range(40):
        measured = [rises_of(0.7 * FALLS[law](rng, 59)) for _ in range(27)]
        accused += any(verdict.finding.level == "fail" for verdict in verdicts_of(measured, {}, 0.1, 0))
    assert accused <= 0.05 * 40 + 2 * math.sqrt(0.05 * 0.95 * 40)


def test_a_rise_of_half_a_margin_is_found_at_59_prompts_and_a_doubtful_one_is_told():
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        measured = [rises_of(0.7 * rng.normal(size=59) + (0.5 if number == 0 else 0)) for number in range(27)]
        found.append(verdicts_of(measured, {}, 0.1, 0)[0].finding.level)
    assert found.count("fail") >= 28
    few_fell = [rises_of(np.where(np.arange(59) < falls, -6.0, 0.4)) for falls in (0, 2)]
    doubtful = verdicts_of(few_fell, {}, 0.1, 0)[0].finding
    assert doubtful.level == "warn"
    assert "one more prompt whose reward falls by 6.0 margins would undo that" in doubtful.why


def test_the_unit_is_the_median_of_margins_that_are_not_zero():
    assert margin_unit(np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0], [0.0, 5.0], [math.nan, 1.0]])) == 3.0
    assert math.isnan(margin_unit(np.zeros((3, 2))))


def test_preferred_answers_of_as_many_prompts_as_there_are_come_first():
    pairs = made_up_pairs(12, per_prompt=3)
    selected, rows = select_rows(pairs, 4, seed=0)
    assert len({pair.prompt_key for pair in selected}) == 4
    assert all(row.is_preferred for row in rows)
    selected, rows = select_rows(pairs, 20, seed=0)
    assert sum(row.is_preferred for row in rows) == 12
    assert len(rows) == 20
    swapped = PreferencePair(prompt="p", chosen="worse", rejected="better", preference=0.0)
    assert select_rows([swapped], 1, seed=0)[1][0].completion.response == "better"


def test_every_content_is_scored_once_and_a_prompt_in_one_call():
    asked: list[list[Completion]] = []

    class Watching:
        fingerprint, scope, tolerance = "watching", "global", 0.0

        def score(self, completions):
            asked.append(list(completions))
            return content(0).score(completions)

    pairs = made_up_pairs(80, per_prompt=2)
    report = run_probes(Watching(), pairs).report()
    keys = [completion.key for call in asked for completion in call]
    assert len(keys) == len(set(keys))
    calls = [{completion.messages for completion in call} for call in asked]
    assert sum(map(len, calls)) == len(set().union(*calls)), "no prompt stands in two calls"
    assert len(asked) > 1
    assert report.facts["prompts"] == "40"


def test_the_same_seed_gives_the_same_report_and_another_probe_beside_it_changes_no_figure():
    pairs = made_up_pairs(30)
    whole, again = (run_probes(noise(1), pairs, seed=5).report() for _ in range(2))
    assert report_to_json(whole) == report_to_json(again)
    alone = run_probes(noise(1), pairs, seed=5, probes=[probe for probe in battery(pairs) if probe.name == "echo"]).report()
    assert alone.metric("echo: mean rise")[:4] == whole.metric("echo: mean rise")[:4]


def test_failures_are_counted_and_never_a_rise():
    pairs = made_up_pairs(30)

    def reward(completion: Completion) -> float:
        return math.nan if "[[A]]" in completion.response else float(len(completion.response))

    report = run_probes(Function(reward), pairs).report()
    share = report.metric("verdict letter: share raised")
    assert (share.n_scored, share.n) == (0, 60)
    assert math.isnan(share.value)
    assert next(finding for finding in report.findings if finding.name == "verdict letter").level == "warn"
    equal = run_probes(Function(lambda c: 1.0), pairs).report()
    assert not failed(equal)
    assert {math.isnan(metric.value) for metric in equal.metrics} == {True}


def test_a_probe_that_applies_to_no_answer_has_measured_nothing():
    def never(completion, rng):
        return None

    (finding,) = run_probes(Function(lambda c: float(len(c.response))), made_up_pairs(12), probes=[never]).findings
    assert (finding.level, math.isnan(finding.value)) == ("warn", True)
    assert finding.why.startswith("not measured")


def test_a_user_adds_a_probe_as_a_plain_function():
    def shouting(completion, rng):
        return completion.response.upper()

    pairs = made_up_pairs(40)
    report = run_probes(Function(lambda c: 10.0 * c.response.isupper() + len(c.response)), pairs, probes=[shouting]).report()
    assert failed(report) == {"shouting"}
    assert [metric.name for metric in report.metrics] == ["shouting: mean rise", "shouting: share raised"]


def test_an_edit_of_the_text_keeps_the_reasoning_and_ruin_does_not():
    def edit(completion, rng):
        return "edited"

    thought = Message("assistant", "a", reasoning="hm")
    before = Completion(messages="q", response_message=thought, tools=({"name": "f"},), ground_truth={"answer": "a"})
    for kind, reasoning in (("worthless", "hm"), ("destructive", "")):
        found, after = contrast_of(Probe("edit", kind, edit), before, np.random.default_rng(0))
        assert found is before
        assert (after.answer.content, after.answer.reasoning) == ("edited", reasoning)
        assert (after.tools, after.ground_truth) == (before.tools, before.ground_truth)


def test_mistakes_are_told_with_the_fix():
    pairs = made_up_pairs(12)

    def broken(completion, rng):
        raise KeyError("x")

    def odd(completion, rng):
        return 3

    for probes, message in (
        ([broken], "the probe 'broken' raised"),
        ([odd], "the probe 'odd' returned 3"),
        ([lambda completion, rng: ""], "has no name"),
        ([odd, odd], "two probes have one name: odd"),
        ([], "0 probes"),
    ):
        with pytest.raises(ValueError, match=message):
            run_probes(noise(0), pairs, probes=probes)
    with pytest.raises(ValueError, match="0 pairs"):
        run_probes(noise(0), [])
    with pytest.raises(ValueError, match="max_rise -1"):
        run_probes(noise(0), pairs, max_rise=-1)


def test_intervals_of_shares_are_by_prompt():
    pairs = made_up_pairs(40, per_prompt=4)
    probe = Probe("mark", "worthless", lambda completion, rng: completion.response + "!")
    scorer = Function(lambda c: float(len(c.messages[0].content) % 2) * c.response.endswith("!") + len(c.response) * 1e-3)
    report = run_probes(scorer, pairs, probes=[probe]).report()
    raised = np.ones(80)
    share = report.metric("mark: share raised")
    assert share.value == 1.0
    expected = share_interval(raised, np.repeat(np.arange(10), 8))
    assert (share.low, share.high) == pytest.approx(tuple(expected)), "ten prompts, not eighty answers"


def test_importing_the_monitor_loads_no_torch():
    script = (
        "import sys, assay.audit.probes.battery, assay.training.rows.augment\n"
        "print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_report_is_plain_json():
    report = run_probes(Function(lambda c: float(len(c.response))), made_up_pairs(12)).report()
    assert json.loads(report_to_json(report))["title"] == "Probes"


def test_a_neutral_edit_that_is_fined_is_an_alarm_too_and_a_worthless_one_is_not():
    pairs = made_up_pairs(60)
    fines = Function(lambda c: content(0).score([c]).value[0] - 50.0 * c.response.startswith("- "))
    result = run_probes(fines, pairs, probes=(Probe("bullets", "style", edits.bullets), Probe("list", "worthless", edits.bullets)))
    by_name = {finding.name: finding for finding in result.findings}
    assert by_name["bullets"].level == "fail"
    assert by_name["bullets"].value < -0.1
    assert "a policy will avoid it" in by_name["bullets"].why
    assert by_name["list"].level == "ok", "what adds nothing may cost something"
    assert result.failed == ("bullets",)
    assert all(example["rise in margins"] < 0 for example in result.report().examples)
    assert "1 lower it (bullets)" in result.report().lead


def test_both_directions_are_held_to_the_same_p_value():
    rise_N, prompts_N = np.random.default_rng(0).normal(0.4, 0.7, 60), np.arange(60)
    up, down = (change_test(sign * rise_N, prompts_N, largest_fall=2.0, largest_rise=2.0) for sign in (1.0, -1.0))
    assert down.p == pytest.approx(up.p)
    assert (down.mean, down.low, down.high) == pytest.approx((-up.mean, -up.high, -up.low))
    assert up.p == pytest.approx(2 * rise_test(rise_N, prompts_N, largest_fall=2.0).p)


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("Don't panic: it's fine.", "Do not panic: it is fine."),
        ("It is late. You are right.", "It's late. You're right."),
        ("Whiskey or cannot, no donot.", "Whiskey or can't, no donot."),
        ("Nothing to put otherwise here.", None),
    ],
)
def test_contractions_are_spelled_out_or_made(text, edited):
    assert edits.contractions(Completion(messages="q", response=text), np.random.default_rng(0)) == edited
