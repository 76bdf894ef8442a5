"""Critiques beside pairs: where they are read, how they name the answers, and what cannot be told in both orders."""

import json
from pathlib import Path

import pytest

from assay.data.critiques import Critiques, Said, Unclear, by_label, critiques_of, said_of, told_of_two
from assay.data.pairs import read_pairs, write_pairs
from assay.records import PreferencePair


def test_columns_of_critiques_stand_beside_the_pair_and_are_written_again(tmp_path):
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "critique": "{chosen} wins", "rejected_critique": "too short"}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row))
    (pair,) = read_pairs(file)
    assert critiques_of(pair) == Critiques("{chosen} wins", None, "too short")
    write_pairs(tmp_path / "again.jsonl", [pair])
    (again,) = read_pairs(tmp_path / "again.jsonl")
    assert critiques_of(again) == critiques_of(pair)


def test_a_blank_critique_is_none():
    assert critiques_of(PreferencePair(prompt="q", chosen="a", rejected="b", ground_truth={"critique": "  "})).is_empty
    assert critiques_of(PreferencePair(prompt="q", chosen="a", rejected="b")).is_empty


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It adds up.\nVerdict: Yes", Said("It adds up.", "Yes")),
        ("It adds up.\n**Verdict:** {chosen}.", Said("It adds up.", "{chosen}")),
        ("It adds up.", Said("It adds up.", None)),
        ("Verdict: No", Said("", "No")),
        ("Verdict: Yes\nNo, wait.\nVerdict: No", Said("Verdict: Yes\nNo, wait.", "No")),
    ],
)
def test_the_last_verdict_line_is_taken_off(text, said):
    assert said_of(text) == said


def test_both_orders_are_told():
    text = "{chosen} counts all, {rejected} one too few."
    assert told_of_two(text, "Answer A", "Answer B") == "Answer A counts all, Answer B one too few."
    assert told_of_two(text, "Answer B", "Answer A") == "Answer B counts all, Answer A one too few."
    assert told_of_two("Tom passed it to Ann.", "Answer A", "Answer B") == "Tom passed it to Ann."


@pytest.mark.parametrize("text", ["Answer A is right.", "The second response stops.", "Assistant 1 wins.", "Model 'm' lies."])
def test_names_that_an_order_decides_are_unclear(text):
    with pytest.raises(Unclear, match="depends on an order"):
        told_of_two(text, "Answer A", "Answer B")


@pytest.mark.parametrize("text", ["It answers a question.", "A model answer a child could give.", "The response made sense."])
def test_plain_words_are_no_names(text):
    assert told_of_two(text, "Answer A", "Answer B") == text


def test_names_by_place_become_sides():
    text = "Assistant 1 is short. The second assistant and Assistant 2's list are better."
    assert by_label(text, ("2", "two", "second", "B")) == "{rejected} is short. {chosen} and {chosen}'s list are better."
    assert by_label("Model 'm' errs, Model M does not.", ("M",)) == "{rejected} errs, {chosen} does not."


def beside(folder, **files):
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def test_reviews_with_two_scores_are_critiques_without_their_scores(tmp_path):
    review = {"question_id": 1, "answer1_id": "a", "answer2_id": "b", "reviewer_id": 1, "review_file": "x.jsonl"}
    said = "Assistant 1 counts four eggs. Assistant 2's answer is short."
    beside(
        tmp_path,
        questions=[{"question_id": 1, "text": "How many eggs?", "category": "counterfactual"}],
        answers=[{"answer_id": "a", "question_id": 1, "text": "Four."}, {"answer_id": "b", "question_id": 1, "text": "Many."}],
        gpt4_reviews=[
            {**review, "score": [8, 6], "text": f"8 6\n{said}"},
            {**review, "score": [5, 9], "text": f"5 9\n\n{said}"},
            {**review, "score": [7, 7], "text": f"7 7\n{said}"},
        ],
    )
    first, second, tie = read_pairs(tmp_path / "gpt4_reviews.jsonl")
    assert critiques_of(first).both == "{chosen} counts four eggs. {rejected}'s answer is short."
    assert second.chosen == "Many."
    assert critiques_of(second).both == "{rejected} counts four eggs. {chosen}'s answer is short."
    assert critiques_of(tie).is_empty


def test_explanations_that_name_two_letters_are_critiques(tmp_path):
    shared = {"judge": "j", "model": "ours", "reference": "theirs", "prompt_id": 3, "p_model": 0}
    ranks = [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]
    beside(
        tmp_path,
        prompts=[{"prompt_id": 3, "instruction": "How many eggs?", "dataset": "koala"}],
        outputs=[
            {"model": "ours", "prompt_id": 3, "output": "Many."},
            {"model": "theirs", "prompt_id": 3, "output": "Four."},
        ],
        preferences=[{**shared, "explanation": "Model 'M' counts, Model m does not.", "ordered_models": ranks}],
    )
    (pair,) = read_pairs(tmp_path / "preferences.jsonl")
    assert (pair.chosen, critiques_of(pair).both) == ("Four.", "{chosen} counts, {rejected} does not.")


SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_the_published_reviews_name_both_sides():
    found = [critiques_of(pair).both for pair in read_pairs(SHARED / "vicuna-bench-reviews" / "gpt4_reviews.jsonl.gz")]
    texts = [text for text in found if text is not None]
    assert len(texts) == 936
    assert all("{chosen}" in text or "{rejected}" in text for text in texts)
    assert not any(text.startswith(("9 8", "8 9")) for text in texts)
