"""What is said of preference files: counts, forms, repeated and contradicting pairs, lengths, labels; by hand-computed numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from assay.data.check import check_pairs
from assay.data.pairs import write_pairs
from assay.stats.metrics import wilson_interval
from tiny import tiny_renderer, toy_pairs


def write_rows(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def row(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def own(prompt: str, chosen: str, rejected: str, preference: float) -> dict[str, Any]:
    beside = {"preference": preference, "margin": None, "weight": 1.0, "source": "", "id": "", "tags": {}}
    return row(prompt, chosen, rejected, **beside)


def test_counts_forms_and_problems_with_their_lines(tmp_path):
    rows = (
        row("a", "x", "y"),
        "{",
        row("b", "", "y"),
        row("c", "x", "x"),
        {"prompt": "d", "responses": ["x", "y"], "ranks": [2, 1]},
    )
    found = check_pairs([write_rows(tmp_path / "mixed.jsonl", *rows, "[")])
    (file,) = found.files
    assert (file.problems.num_rows, found.num_pairs, found.num_prompts, found.num_set_aside) == (6, 2, 2, 4)
    assert file.problems.forms == {"explicit": 3, "ranked": 1}
    assert {reason: file.problems.places(reason) for reason in file.problems.reasons} == {
        "not JSON": "lines 2, 6",
        "empty": "line 3",
        "identical pair": "line 4",
    }
    assert file.summary().endswith("form: explicit (3), ranked (1)")
    finding = next(finding for finding in found.findings if finding.name == "set aside")
    assert (finding.level, finding.value) == ("warn", 4 / 6)


def test_repeated_pairs_and_the_labels_that_they_outvote(tmp_path):
    rows = (
        row("a", "x", "y"),
        row("a", "x", "y"),  # again
        row("a", "y", "x"),  # again, with the opposite label: outvoted by two
        row("b", "y", "x"),  # another prompt
        row("c", "x", "z"),
        row("c", "z", "x"),  # one against one
    )
    found = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)])
    assert (found.num_pairs, found.num_prompts) == (6, 3)
    assert found.num_repeated == 3
    assert found.num_outvoted == 2
    findings = {finding.name: finding for finding in found.findings}
    assert (findings["repeated pairs"].level, findings["repeated pairs"].value) == ("warn", 3 / 6)
    assert (findings["contradicting labels"].level, findings["contradicting labels"].value) == ("warn", 2 / 6)


def test_a_tie_and_a_soft_label_are_no_contradiction_and_count_as_labels(tmp_path):
    rows = (
        own("a", "x", "y", 0.5),
        own("a", "x", "y", 1.0),
        own("b", "x", "y", 0.7),
        own("c", "x", "y", 0.9),
        own("d", "x", "y", 0.2),
    )
    found = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)])
    assert (found.num_repeated, found.num_outvoted) == (1, 0)
    assert (found.ties.value, found.ties.n) == (1 / 5, 5)
    assert found.labels == (
        ("0.5 (tie)", 1),
        ("0.5 to 0.75", 1),
        ("0.75 to 1", 2),
        ("1 (plain label)", 1),
        ("of these, the rejected answer preferred", 1),
    )


def test_how_often_the_longer_answer_is_preferred_leaves_ties_and_equal_lengths_out(tmp_path):
    rows = (
        own("a", "long", "no", 1.0),
        own("b", "no", "long", 1.0),
        own("c", "no", "long", 0.2),  # the rejected answer, which is longer, is preferred
        own("d", "long", "no", 0.9),
        own("e", "long", "no", 0.5),
        own("f", "four", "five", 1.0),
    )
    longer = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)]).longer
    assert (longer.value, longer.n_scored, longer.n) == (3 / 4, 4, 6)
    assert longer.low < 3 / 4 <= longer.high


def test_the_interval_goes_by_prompts_and_warns_where_all_of_it_is_far_from_one_half(tmp_path):
    rows = [row(f"prompt {i % 10}", f"a longer answer {i}", f"no {i}") for i in range(40)]
    found = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)])
    bounds = wilson_interval(10, 10)  # ten prompts, not forty pairs
    assert (found.longer.value, found.longer.low, found.longer.high) == (1.0, bounds.low, bounds.high)
    finding = found.findings[-1]
    assert (finding.level, finding.name) == ("warn", "length of the preferred answer")
    assert "--debias-length" in finding.why


def test_quantiles_of_lengths_are_those_of_pairs_that_are_there(tmp_path):
    rows = [row("p" * i, "c" * 2 * i, "r" * (101 - i)) for i in range(1, 101)]
    found = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)])
    assert found.lengths == (
        (0.05, 5, 10, 5),
        (0.25, 25, 50, 25),
        (0.5, 50, 100, 50),
        (0.75, 75, 150, 75),
        (0.95, 95, 190, 95),
        (1.0, 100, 200, 100),
    )


def test_files_are_looked_at_together_and_one_that_cannot_be_read_keeps_no_other_from_it(tmp_path):
    write_pairs(tmp_path / "good.jsonl", toy_pairs(20))
    write_pairs(tmp_path / "again.jsonl", toy_pairs(20))
    odd = write_rows(tmp_path / "odd.jsonl", {"question": "a"})
    files = [str(tmp_path / "good.jsonl"), odd, str(tmp_path / "again.jsonl"), str(tmp_path / "nowhere.jsonl")]
    found = check_pairs(files)
    assert [file.is_empty for file in found.files] == [False, True, False, True]
    assert (found.num_pairs, found.num_repeated) == (40, 20)
    failures = [finding for finding in found.findings if finding.level == "fail"]
    assert [finding.name for finding in failures] == ["odd.jsonl was read", "nowhere.jsonl was read"]
    assert "no form of preference pairs that is accepted" in failures[0].why
    assert "does not exist" in failures[1].why


def test_nothing_is_no_share(tmp_path):
    found = check_pairs([write_rows(tmp_path / "empty.jsonl")])
    assert (found.num_pairs, found.num_prompts, found.num_repeated, found.num_outvoted) == (0, 0, 0, 0)
    assert math.isnan(found.ties.value)
    assert math.isnan(found.longer.value)
    assert found.files[0].is_empty


def test_limit_and_form_are_those_of_reading(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", *(row(f"p{i}", "x", "y") for i in range(9)))
    assert check_pairs([file], limit=4).num_pairs == 4
    with_form = check_pairs([file], form="ranked")
    assert with_form.files[0].is_empty
    assert "ranked" in with_form.files[0].error


@pytest.mark.parametrize(
    "name", ["pairs", "repeated pairs", "contradicting labels", "longer answer preferred", "prompt, characters"]
)
def test_the_report_has_the_figure(name, tmp_path):
    report = check_pairs([write_rows(tmp_path / "rows.jsonl", row("a", "xy", "z"), row("a", "z", "xy"))]).report()
    expected = {"pairs": 2, "repeated pairs": 1, "contradicting labels": 1, "longer answer preferred": 0.5, "prompt, characters": 1}
    assert report.metric(name).value == expected[name]


def test_what_the_labels_go_along_with(tmp_path):
    """Markdown where one answer alone has it; the place of the better answer in forms that say it by a label; scripts; order."""
    rows = [
        {"input": f"q{i}", "output_1": "- one\n- two" if i % 2 else "plain", "output_2": "простой", "label": 1 if i < 30 else 2}
        for i in range(40)
    ]
    found = check_pairs([write_rows(tmp_path / "llmbar.jsonl", *rows)])
    assert (found.markdown.value, found.markdown.n_scored, found.markdown.n) == (15 / 20, 20, 40)
    assert (found.first.value, found.first.n_scored) == (30 / 40, 40)
    assert sum(found.scripts.values()) == 40
    assert {prompt for prompt, _ in found.scripts} == {"Latin"}
    report = found.report()
    assert report.metric("markdown preferred").value == 15 / 20
    assert report.metric("first answer preferred").value == 30 / 40
    titles = [table.title for table in report.tables]
    assert "Scripts" in titles
    named = check_pairs([write_rows(tmp_path / "named.jsonl", row("a", "x", "y"), row("b", "x", "y"))])
    assert math.isnan(named.first.value)
    assert "its place says nothing" in named.first.note


def test_a_sorted_set_is_said_to_be_sorted(tmp_path):
    rows = [row(f"q{i}", "a", "b", category="safety" if i < 25 else "chat") for i in range(50)]
    found = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)])
    assert found.spread.sorted_by() == ["category"]
    assert "Sorted by category" in [table.title for table in found.report().tables]


def test_with_a_base_it_says_what_its_template_would_cut_and_set_aside(tmp_path):
    rows = (
        row("short", "yes", "no"),
        row("the question comes first " * 20, "yes", "no"),  # cut at the front: both answers are kept
        row("short", "Good." + " water" * 60, "Bad." + " water" * 60),  # the same once it is cut
    )
    found = check_pairs([write_rows(tmp_path / "rows.jsonl", *rows)], renderer=tiny_renderer(max_length=48), base="tiny")
    assert found.fit is not None
    assert (found.fit.count.num_pairs, found.fit.count.num_cut, found.fit.count.num_set_aside) == (2, 1, 1)
    assert found.fit.lengths[-1] == (1.0, 48, 48)
    findings = {finding.name: finding for finding in found.findings}
    assert (findings["cut by the length policy"].level, findings["cut by the length policy"].value) == ("warn", 1 / 3)
    assert "same tokens" in findings["set aside after rendering"].why
    report = found.report()
    assert report.metric("pairs cut at the front").value == 1
    assert "After rendering" in [table.title for table in report.tables]
    assert "with the template of tiny, at most 48 tokens: 2 pairs" in found.fit.summary()
