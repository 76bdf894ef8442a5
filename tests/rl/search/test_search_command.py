"""`assay search` over a known tree: what is written, what is said of it, and that nothing is asked twice."""

from __future__ import annotations

import json

import pytest
from test_search import Tree, Valued

from assay.cli import main
from assay.commands.shared import Where
from assay.data.prompt_rows import Prompt
from assay.generation.policy import Policy
from assay.messages import as_messages
from assay.rl.search.growing import Candidate, Found, SearchSettings
from assay.rl.search.searched import summarised
from assay.scorers.opened import Opened

TREE = {
    "": ["One|", "Two|"],
    "One|": ["#### 4"],
    "Two|": ["#### 5"],
}
VALUE = {"One|": 0.9, "Two|": 0.2, "#### 4": 0.9, "#### 5": 0.3}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The trees that were asked; three prompts, of which 4 is right for two."""
    pytest.importorskip("math_verify")
    opened, trees = Opened(spec="valued", name="valued", artifact=None, home=None), []
    opened.__dict__["scorer"] = Valued(VALUE)

    def backend(self, **more):
        trees.append(Tree(TREE))
        return trees[-1]

    monkeypatch.setattr(Where, "open", lambda *args, **more: opened)
    monkeypatch.setattr(Policy, "backend", backend)
    rows = [
        {"prompt": "a?", "ground_truth": "4"},
        {"prompt": "b?", "ground_truth": "#### 4"},
        {"prompt": "c?", "ground_truth": "5"},
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return trees


def searched(tmp_path, capsys, *words):
    answers = tmp_path / "answers.jsonl"
    given = ["search", "valued", str(tmp_path / "prompts.jsonl"), "--policy", "tree", "--answers", str(answers), "--step-end", "|"]
    status = main([*given, *words])
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()] if answers.exists() else []
    return status, printed.out.splitlines(), printed.err, rows


def test_what_is_found_is_written_and_held_against_a_vote(asked, tmp_path, capsys):
    status, lines, said, rows = searched(tmp_path, capsys, "--n", "4")
    assert status == 0
    assert "writing" in said
    assert len(lines) <= 12
    assert "right for 66.7% of the prompts; a random one for 50.0%, the best for 100.0%" in lines[1]
    assert any(line.startswith("accuracy: chosen by reward") and "majority 66.7%" in line for line in lines)
    assert [row["response"] for row in rows] == ["One|#### 4"] * 3
    assert rows[0]["steps"] == ["One|", "#### 4"]
    assert rows[0]["step_rewards"] == pytest.approx([0.9, 0.9])
    assert [one["right"] for one in rows[2]["candidates"]] == [False, True, False, True]
    report = json.loads((tmp_path / "eval" / "search-best-of-n-prompts.json").read_text(encoding="utf-8"))
    assert report["facts"]["tokens"] == "24 written, 12 read, in 12 calls"
    assert any(table["title"] == "choosing among n" for table in report["tables"])


def test_curves_over_n_end_in_the_figures_above_them_although_solutions_were_cut_off():
    """Of the first prompt two of four solutions came to an end, of the third none: they are wrong, and not left out."""
    pytest.importorskip("math_verify")
    right, wrong = Candidate(steps=("#### 4",), value=0.2, ended="stop"), Candidate(steps=("#### 5",), value=0.6, ended="stop")
    found = [Found(ones, {"cut off": 4 - len(ones)}, 0, 0, 4) for ones in ((right, wrong), (right,) * 4, ())]
    prompts = [Prompt(messages=as_messages("a?"), id=name, ground_truth={"answer": "4"}) for name in "abc"]
    result = summarised(found, prompts, SearchSettings(n=4), title="t")
    figures = {one.name.removeprefix("accuracy: "): one.value for one in result.figures}
    (table,) = [one for one in result.page.tables if one.title == "choosing among n"]
    *_, last = table.rows
    curve = dict(zip(table.columns, last, strict=True))
    assert curve["n"] == 4
    assert curve["oracle"] == pytest.approx(figures["oracle"]) == pytest.approx(2 / 3)
    assert curve["best of n: reward"] == pytest.approx(figures["chosen by reward"]) == pytest.approx(1 / 3)
    assert curve["weighted vote: reward"] == pytest.approx(figures["weighted vote"])
    assert "not finished counts as wrong" in table.note
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["best of n: reward"] == pytest.approx(first["a random answer"]) == pytest.approx((1 / 4 + 1 + 0) / 3)


def test_a_run_that_was_stopped_goes_on_without_a_call(asked, tmp_path, capsys):
    first = searched(tmp_path, capsys, "--method", "beam", "--n", "2", "--width", "2")
    again = searched(tmp_path, capsys, "--method", "beam", "--n", "2", "--width", "2")
    assert [len(tree.asked) for tree in asked] == [12, 0]
    assert first[3] == again[3]
    assert "0 calls" in again[2]


def test_without_a_ground_truth_it_is_said_that_nothing_is_known(asked, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a?"}\n', encoding="utf-8")
    status, lines, _, rows = searched(tmp_path, capsys, "--method", "dvts", "--n", "2", "--width", "2")
    assert status == 0
    assert "1 of 1 prompts have a solution; without a ground truth" in lines[1]
    assert "right" not in rows[0]["candidates"][0]


def test_a_prompt_whose_prefixes_are_all_rejected_has_no_answer_and_is_wrong(asked, tmp_path, capsys):
    status, lines, _, rows = searched(tmp_path, capsys, "--method", "rejection", "--threshold", "0.95")
    assert status == 0
    assert rows[0]["response"] is None
    assert rows[0]["left_out"] == {"rejected": 4}
    assert "right for 0.0% of the prompts" in lines[1]


def test_an_instruction_goes_before_each_prompt(asked, tmp_path, capsys):
    searched(tmp_path, capsys, "--system", "Mark the answer with ####.")
    assert asked[0].asked[0][0] == "Mark the answer with ####."


def test_flags_that_do_not_go_together_are_refused(asked, tmp_path, capsys):
    status, _, error, _ = searched(tmp_path, capsys, "--method", "beam", "--n", "6")
    assert status == 2
    assert "multiple of width 4" in error
    with pytest.raises(SystemExit):
        main(["search", "valued", str(tmp_path / "prompts.jsonl"), "--policy", "tree", "--answers", "answers.csv"])
