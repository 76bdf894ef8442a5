"""Answers that were judged alone: which verdict is right, what is asked once, and what is refused."""

from __future__ import annotations

import json

import pytest

from assay.cli import main
from assay.data.cases import case_of
from assay.data.pairs import read_pairs
from assay.errors import DataError
from assay.run_files import read_description
from assay.scorers.generative.own_forms import own_form
from assay.training.generative.questions import CONTRADICTS, NO_CRITIQUE, LeftOut
from assay.training.generative.rated_answers import (
    JUDGED_BOTH_WAYS,
    REPEATED,
    check_verdicts,
    once,
    questions_of_answers,
    rated_answer,
)
from tiny import save_tiny_base


def read(tmp_path, rows, good):
    """The answers that are taken, and the pairs that are left."""
    file, taken = tmp_path / "rows.jsonl", []
    file.write_text("\n".join(json.dumps(row) for row in rows))

    def take(case):
        one = rated_answer(case, good)
        taken.extend([one] if one else [])
        return one is not None

    return taken, list(read_pairs(file).besides(take))


def row(answer, score, said=None, prompt="How many?"):
    return {"prompt": prompt, "response": answer, "score": score} | ({"critique": said} if said else {})


def test_a_score_is_good_from_the_named_one_on_and_nothing_is_paired(tmp_path):
    taken, pairs = read(tmp_path, [row("Two.", 5), row("Five.", 6, "Right."), row("Six.", 7)], good=6)
    assert [(one.completion.answer.content, one.is_good, one.critique) for one in taken] == [
        ("Two.", False, None),
        ("Five.", True, "Right."),
        ("Six.", True, None),
    ]
    assert pairs == []


def test_a_label_is_what_it_says_whatever_the_score(tmp_path):
    rows = [{"prompt": "q?", "completion": word, "label": label} for word, label in (("a", True), ("b", False))]
    taken, _ = read(tmp_path, rows, good=7)
    assert [one.is_good for one in taken] == [True, False]


def test_pairs_in_the_same_file_stay_pairs_and_what_has_no_answer_is_set_aside(tmp_path):
    rows = [row("Five.", 6), {"prompt": "q?", "chosen": "a", "rejected": "b"}, row(" ", 3), row("Two.", None)]
    taken, pairs = read(tmp_path, rows, good=6)
    assert len(taken) == 1
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("a", "b")]


def test_a_limit_counts_pairs(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(row("Two.", 5)))
    with pytest.raises(DataError, match="limit 5 counts pairs"):
        next(read_pairs(tmp_path / "x.jsonl", limit=5).besides(lambda case: True))


def test_each_answer_is_asked_once_and_not_where_it_is_good_and_bad(tmp_path):
    rows = [row("Two.", 5), row("Two.", 5), row("Two.", 5, "Wrong."), row("Six.", 9), row("Six.", 1)]
    left_out = LeftOut()
    kept = once(read(tmp_path, rows, good=6)[0], left_out)
    assert [(one.completion.answer.content, one.critique) for one in kept] == [("Two.", None), ("Two.", "Wrong.")]
    assert left_out.counts == {REPEATED: 1, JUDGED_BOTH_WAYS: 2}


def test_questions_have_the_verdict_of_the_score_and_a_critique_that_agrees(tmp_path):
    rows = [row("Five.", 9, "All are counted.\nVerdict: Yes"), row("Two.", 1, "Short.\nVerdict: Yes"), row("Six.", 2)]
    left_out = LeftOut()
    found = questions_of_answers(read(tmp_path, rows, good=6)[0], own_form("pointwise"), left_out, first=4)
    assert [(one.pair, one.right, one.wrong, one.critique) for one in found] == [
        (4, "Yes", "No", "All are counted."),
        (5, "No", "Yes", None),
        (6, "No", "Yes", None),
    ]
    assert left_out.counts == {CONTRADICTS: 1, NO_CRITIQUE: 1}
    assert "Five." in found[0].messages[-1].content


def test_one_verdict_teaches_nothing(tmp_path):
    taken, _ = read(tmp_path, [row("Five.", 6), row("Two.", 3)], good=9)
    with pytest.raises(DataError, match=r"good=9 makes none of the 2 answers good \(scores of 3 to 6\)"):
        check_verdicts(taken, 9)
    with pytest.raises(DataError, match="no training row is one"):
        check_verdicts([], 9)


def test_a_pair_is_no_answer_alone():
    assert rated_answer(case_of("q?", ["a", "b"], [1.0, 0.0]), 1) is None
    assert rated_answer(case_of("q?", ["a"], [float("nan")]), 1) is None


WORDS = ("--params", "full", "--calibration", "0.1", "--test", "0.2", "--dtype", "float32", "--device", "cpu", "--epochs", "1")


def trained(tmp_path, kind: str, rows: list[dict], *flags: str) -> int:
    pytest.importorskip("trl")
    if not (tmp_path / "base").is_dir():
        save_tiny_base(tmp_path / "base", max_positions=1024)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    where = ["--data", str(tmp_path / "rows.jsonl"), "--base", str(tmp_path / "base"), "--out", str(tmp_path / "run")]
    return main(["train", "--kind", kind, *where, *WORDS, *flags])


def single(number: int) -> dict:
    good = number % 2 == 0
    said = f"There {'are two' if good else 'is a guess'}."
    return row(f"It is {'water' if good else 'lazy'}.", 8 if good else 2, said, prompt=f"Tell me about egg {number}")


@pytest.mark.slow
def test_single_answers_alone_train_a_model_that_knows_its_prompts(tmp_path, capsys):
    assert trained(tmp_path, "generative:pointwise,good=6", [single(number) for number in range(20)]) == 0
    told = capsys.readouterr().err
    description = read_description(tmp_path / "run" / "artifact")
    split = description["splits"]["train"]
    assert split["num_pairs"] == 0
    assert split["num_prompts"] == description["num_answers"] > 10
    assert f"{split['num_prompts']} training answers that were judged alone" in told
    assert description["generative"]["critique"] is True
    assert description["stages"]["sft"]["replies of the rows"] == split["num_prompts"]


def test_answers_alone_without_a_score_to_be_good_say_what_to_type(tmp_path, capsys):
    assert trained(tmp_path, "generative:pointwise", [single(number) for number in range(6)]) != 0
    assert "good=SCORE" in capsys.readouterr().err
