"""A search over tokens beside whole solutions: points worked out by hand, and the command that draws them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_search_command import TREE, VALUE, asked, searched  # noqa: F401  (asked: a fixture)

from assay.data.prompt_rows import Prompt
from assay.messages import as_messages
from assay.rl.search.budgets import LED, LED_BEST, OWN, Searched, budget_curve, curve_of, whole_needed
from assay.rl.search.growing import Candidate, Found, SearchSettings

RIGHT, WRONG = "#### 4", "#### 5"


def solution(text, value):
    return Candidate(steps=(text,), value=value, ended="stop")


def prompts(num):
    return [Prompt(messages=as_messages("a?"), id=str(k), ground_truth={"answer": "4"}) for k in range(num)]


WHOLE = [
    Found((solution(RIGHT, 0.2), solution(WRONG, 0.6), solution(WRONG, 0.1)), {"cut off": 1}, 40, 0, 4),
    Found((solution(RIGHT, 0.9),) * 2 + (solution(WRONG, 0.5),) * 2, {}, 40, 0, 4),
]
"""Ten tokens a solution; of the first prompt one was cut off."""


def test_a_point_stands_beside_whole_solutions_that_cost_as_much():
    one = Searched(1, [Found((solution(RIGHT, 0.5),), {}, 10, 0, 1)] * 2)
    two = Searched(2, [Found((solution(WRONG, 0.5), solution(RIGHT, 0.4)), {}, 25, 0, 6), Found((), {"not scored": 2}, 15, 0, 6)])
    assert whole_needed([one, two], WHOLE) == (1, 2)
    dearer = Searched(4, [Found((), {}, 31, 0, 8)] * 2)
    assert whole_needed([dearer], WHOLE) == (4,), "never fewer tokens"
    curve = budget_curve([one, two], WHOLE, prompts(2), beside={"outcome": [np.array([0.0, -1.0, -2.0]), np.zeros(4)]})
    assert curve.written == (10.0, 20.0)
    assert curve.whole_written == (10.0, 20.0)
    shares = {name: [metric.value for metric in metrics] for name, metrics in curve.figures.items()}
    assert shares[LED] == [1.0, 0.0], "the best of the second is wrong, and no solution is none"
    assert shares[LED_BEST] == [1.0, 0.5]
    assert shares["random whole"] == pytest.approx([(1 / 4 + 1 / 2) / 2] * 2)
    assert shares[f"best of whole by {OWN}"] == pytest.approx([(1 / 4 + 1 / 2) / 2, (2 / 6 + 5 / 6) / 2])
    assert shares["best of whole by outcome"] == pytest.approx([(1 / 4 + 1 / 2) / 2, (3 / 6 + 1 / 2) / 2])
    assert shares["oracle of whole"][1] == pytest.approx((3 / 6 + 5 / 6) / 2)
    (first, second) = curve.ahead("random whole")
    assert first.value == pytest.approx(1 - 3 / 8)
    assert second.level == "warn"
    with pytest.raises(ValueError, match="only 4 were written"):
        budget_curve([Searched(4, [Found((), {}, 90, 0, 8)] * 2)], WHOLE, prompts(2))
    with pytest.raises(ValueError, match="no token"):
        whole_needed([one], [Found((), {}, 0, 0, 0)])


def test_as_many_whole_solutions_are_written_as_the_dearest_search_costs():
    asked_for = []

    def search_with(settings):
        asked_for.append((settings.method, settings.n, settings.width))
        if settings.method == "beam":
            return [Found((solution(RIGHT, 0.5),), {}, 30 * settings.n, 0, settings.n)]
        return [Found((solution(RIGHT, 0.5),) * settings.n, {}, 10 * settings.n, 0, settings.n)]

    settings = SearchSettings(method="beam", n=4, width=2)
    curve = curve_of(search_with, settings, (4, 1, 4), prompts(1), {"other": lambda items: np.zeros(len(items))})
    assert asked_for == [("beam", 1, 1), ("beam", 4, 2), ("best-of-n", 4, 2), ("best-of-n", 12, 2)]
    assert curve.whole == (3, 12)
    with pytest.raises(ValueError, match="ground truth"):
        curve_of(search_with, settings, (4,), [Prompt(messages=as_messages("a?"), id="0", ground_truth=None)], {})


def test_the_command_shows_the_curve_and_writes_nothing_twice(asked, tmp_path, capsys):  # noqa: F811
    words = ("--method", "beam", "--n", "4", "--width", "2", "--curve", "2", "--beside", "valued")
    status, _, _, _ = searched(tmp_path, capsys, *words)
    assert status == 0
    report = json.loads((tmp_path / "eval" / "search-beam-prompts.json").read_text(encoding="utf-8"))
    table = report["tables"][0]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [row["n"] for row in rows] == [2, 4]
    assert rows[1][LED] == pytest.approx(2 / 3), "One| is kept, and 4 is right for two of three prompts"
    assert rows[1]["best of whole by valued"] == rows[1]["best of whole by reward"]
    assert [row["tokens"] for row in rows] == [8.0, 16.0]
    assert [row["whole solutions"] for row in rows] == [4, 8], (
        "a search asks twice for what a whole solution is asked once, 2 tokens a call"
    )
    assert any(one["name"] == "n = 4: better than majority of whole at as many tokens" for one in report["findings"])
    calls = len(asked[-1].asked)
    assert searched(tmp_path, capsys, *words)[0] == 0
    assert calls > 0
    assert asked[-1].asked == []


def test_flags_of_the_curve_that_do_not_go_together_are_refused(asked, tmp_path, capsys):  # noqa: F811
    for words, said in (
        (["--curve", "2"], "is of beam, dvts and rejection"),
        (["--method", "beam", "--beside", "valued"], "chooses among the whole solutions of"),
    ):
        with pytest.raises(SystemExit):
            searched(tmp_path, capsys, *words)
        assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    status, _, printed, _ = searched(tmp_path, capsys, "--method", "beam", "--width", "2", "--curve", "3")
    assert status == 2
    assert "multiple of width" in printed
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a?"}\n', encoding="utf-8")
    status, _, printed, _ = searched(tmp_path, capsys, "--method", "beam", "--curve", "8")
    assert status == 2
    assert "no prompt has a ground truth" in printed
    assert [len(tree.asked) for tree in asked] == [], "nothing is asked before"
