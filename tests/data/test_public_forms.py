"""Labels of public sets mean what their cards say: who won, by how much, ties, and what was rated beside."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.data.balance import first_wins
from assay.data.candidates import read_candidates
from assay.data.cases import Case
from assay.data.pairs import PairReader, read_pairs
from assay.data.raw.columns import suggestion
from assay.errors import DataError
from assay.messages import Message
from assay.records import PreferencePair

QUESTION, GOOD, BAD = "Why does bread go stale?", "The starch slowly crystallises again.", "The starch runs away at night."
USER = Message("user", QUESTION)


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def whole(answer: str) -> list[dict[str, Any]]:
    return [turn("user", QUESTION), turn("assistant", answer)]


def written(folder: Path, rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def read(tmp_path: Path):
    def run(*rows: Any, **options: Any) -> tuple[list[PreferencePair], PairReader]:
        reader = read_pairs(written(tmp_path, rows), **options)
        return list(reader), reader

    return run


def cases(path: Path) -> list[Case]:
    return [case for _, case in read_pairs(path).cases() if isinstance(case, Case)]


# Two answers and a vote.

TWO = {"prompt": QUESTION, "response_a": GOOD, "response_b": BAD}
FIRST = (
    "a", "A", "model_a", "Model A", "response_a", "Response A", "A>B", "B<A", "A>>B", "[[A]]", "first", "left", "1st",
    "A is better", "A wins",
    "Response A is slightly better than Response B.", GOOD, ["model_a"], "the first one",
)  # fmt: skip
TIES = ("tie", "TIE", "draw", "both", "neither", "equal", "A=B", "no preference", "Both good")


@pytest.mark.parametrize(
    "column", ["winner", "label", "preference", "preferred", "better_response", "choice", "chosen", "overall_preference"]
)
@pytest.mark.parametrize("vote", FIRST, ids=str)
def test_a_vote_for_the_first_answer_in_every_spelling(read, column, vote):
    (pair,), _ = read({**TWO, column: vote}, strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.preference) == ((USER,), GOOD, BAD, 1.0)


@pytest.mark.parametrize("vote", ["b", "model_b", "Response B", "B>A", "A<B", "[[B]]", "second", "right", "B is better", GOOD])
def test_a_vote_for_the_second_answer(read, vote):
    (pair,), _ = read({**TWO, "response_a": BAD, "response_b": GOOD, "winner": vote}, strict=True)
    assert (pair.chosen, pair.preference) == (GOOD, 1.0)


@pytest.mark.parametrize("vote", [*TIES, "tie (bothbad)", "both_bad", "Both bad"])
def test_ties_in_their_names_and_both_bad_is_said(read, vote):
    (pair,), _ = read({**TWO, "winner": vote}, strict=True)
    assert pair.is_tie
    assert pair.tags == ({"tie": "both bad"} if "bad" in vote.lower() else {})


@pytest.mark.parametrize("vote", [0, 1, 2, -1, 0.3, "0", "1", True, False])
def test_a_number_that_names_neither_column_stops_the_run(read, vote):
    with pytest.raises(
        DataError, match="does not say which of 'response_a' and 'response_b' is better: write response_a, response_b or tie"
    ):
        read({**TWO, "label": vote})


@pytest.mark.parametrize(
    ("names", "label", "first_wins"),
    [
        (("response_1", "response_2"), 1, True),
        (("response_1", "response_2"), "2", False),
        (("output1", "output2"), 2.0, False),
        (("answer_0", "answer_1"), 0, True),
        (("answer_0", "answer_1"), 1, False),
        (("response_1", "response_2"), "response_2", False),
        (("completion_a", "completion_b"), "response_1", True),
        (("first_answer", "second_answer"), "second", False),
        (("summary_a", "summary_b"), "summary_b", False),
        (("A", "B"), "B", False),
    ],
)
def test_a_number_or_a_name_of_a_column_is_that_column(read, names, label, first_wins):
    (pair,), _ = read({"question": QUESTION, names[0]: GOOD, names[1]: BAD, "label": label}, strict=True)
    assert pair.chosen == (GOOD if first_wins else BAD)


def test_a_numbered_label_that_could_count_from_zero_stops_the_run(read):
    row = {"prompt": QUESTION, "response_1": GOOD, "response_2": BAD}
    for label in (0, -1, 0.5):
        with pytest.raises(DataError, match="line 2: the label"):
            read({**row, "preference": 1}, {**row, "preference": label})
    _, reader = read({**row, "preference": 3}, {**row, "preference": "banana"}, {**row, "preference": None})
    assert reader.problems.reasons == {"unknown label": (2, (1, 2)), "missing label": (1, (3,))}


@pytest.mark.parametrize(
    ("column", "value", "first_wins"),
    [
        ("chosen_is_first", True, True),
        ("first_is_better", "false", False),
        ("a_is_better", 1, True),
        ("second_is_better", 1, False),
        ("b_wins", "no", True),
    ],
)
def test_a_yes_or_no_under_a_name_that_says_of_what(read, column, value, first_wins):
    (pair,), _ = read({**TWO, column: value}, strict=True)
    assert pair.chosen == (GOOD if first_wins else BAD)


def test_scores_of_two_answers_decide_or_are_the_margin(read):
    (pair,), _ = read({**TWO, "score_a": "7.5", "score_b": 3}, strict=True)
    assert (pair.chosen, pair.margin) == (GOOD, 4.5)
    (pair,), _ = read({**TWO, "response_a_rating": 1, "response_b_rating": 4, "winner": "b"}, strict=True)
    assert (pair.chosen, pair.margin) == (BAD, 3.0)
    _, reader = read({**TWO, "score_a": 1, "score_b": 4, "winner": "a"})
    assert reader.problems.reasons == {"margin is negative": (1, (1,))}


def test_the_name_of_a_model_is_a_vote_and_says_nothing_where_both_have_it(read):
    models = {"model_a": "m1", "model_b": "m2"}
    (pair,), _ = read({**TWO, **models, "winner": "m2"}, strict=True)
    assert pair.chosen == BAD
    _, reader = read({**TWO, **models, "model_b": "m1", "winner": "m1"})
    assert reader.problems.reasons == {"both answers are of the model that won": (1, (1,))}


# Chatbot Arena and MT-bench.


def test_a_vote_on_the_first_turn_is_about_the_first_turn(read):
    later = [turn("user", "And cake?"), turn("assistant", "Cake too.")]
    row = {
        "model_a": "m1",
        "model_b": "m2",
        "winner": "model_b",
        "conversation_a": whole(BAD) + later,
        "conversation_b": whole(GOOD) + later,
    }
    (pair,), _ = read({**row, "turn": 1})
    assert (pair.prompt, pair.chosen, pair.rejected) == ((USER,), GOOD, BAD)
    _, reader = read({**row, "turn": 2})
    assert reader.problems.reasons == {"prompts differ": (1, (1,))}


def test_arena_140k_has_parts_and_both_bad(read):
    def in_parts(answer: str) -> list[dict[str, Any]]:
        return [turn(t["role"], [{"type": "text", "text": t["content"], "image": None, "mimeType": None}]) for t in whole(answer)]

    sides = {"conversation_a": in_parts(GOOD), "conversation_b": in_parts(BAD)}
    (won, bad), _ = read(
        *[{"id": "x", "model_a": "m", "model_b": "n", "winner": winner, **sides} for winner in ("model_a", "both_bad")]
    )
    assert (won.prompt, won.chosen, bad.preference, bad.tags) == ((USER,), GOOD, 0.5, {"tie": "both bad"})


def test_arena_55k_turns_are_json_and_null_answers_are_set_aside(read):
    def row(prompts: list[Any], first: list[Any], second: list[Any], *votes: int) -> dict[str, Any]:
        names = ("winner_model_a", "winner_model_b", "winner_tie")
        texts = {"prompt": prompts, "response_a": first, "response_b": second}
        return {name: json.dumps(value) for name, value in texts.items()} | dict(zip(names, votes, strict=True))

    pairs, reader = read(
        row([QUESTION], [GOOD], [BAD], 1, 0, 0),
        row([QUESTION], [GOOD], [BAD], 0, 0, 1),
        row(["Hi", QUESTION], ["Hello", BAD], ["Hello", GOOD], 0, 1, 0),
        row(["Hi", QUESTION], ["Hello", BAD], ["Ho", GOOD], 0, 1, 0),
        row([QUESTION], [GOOD], [None], 1, 0, 0),
    )
    assert [(pair.chosen, pair.preference, len(pair.prompt)) for pair in pairs] == [(GOOD, 1.0, 1), (GOOD, 0.5, 1), (GOOD, 1.0, 3)]
    assert reader.problems.reasons == {"prompts differ": (1, (4,)), "empty": (1, (5,))}


# Strengths, scores and attributes.


@pytest.mark.parametrize(("strength", "expected"), [(-3, (GOOD, 1.0, 3.0)), (1, (BAD, 1.0, 1.0)), (0, (GOOD, 0.5, 0.0))])
def test_helpsteer_strengths_are_negative_for_the_first_answer(read, strength, expected):
    rows = [
        {
            "prompt": QUESTION,
            "response_1": GOOD,
            "response_2": BAD,
            "preference_strength": strength,
            "preference_elaboration": "It is so.",
        },
        {
            "context": whole("")[:1],
            "response1": GOOD,
            "response2": BAD,
            "overall_preference": strength,
            "individual_preference": [{"score": 1}],
        },
    ]
    pairs, _ = read(*rows, strict=True)
    assert [(pair.chosen, pair.preference, pair.margin) for pair in pairs] == [expected] * 2


def test_helpsteer_rows_of_one_prompt_are_one_list_with_attributes(tmp_path):
    rated = [(GOOD, 4, 3), (BAD, 0, 2), ("It dries.", 4, None)]
    rows = [
        {"prompt": QUESTION, "response": text, "helpfulness": good, "verbosity": long, "coherence": 4} for text, good, long in rated
    ]
    path = written(tmp_path, [*rows, {**rows[0], "prompt": "Alone?"}])
    (case,) = cases(path)
    assert (case.gold, case.is_scored, case.attributes["helpfulness"]) == ((4.0, 0.0, 4.0), True, (4.0, 0.0, 4.0))
    assert case.attributes["verbosity"][:2] == (3.0, 2.0)
    assert math.isnan(case.attributes["verbosity"][2])
    reader = read_pairs(path)
    pairs = [(pair.chosen, pair.rejected, pair.margin, pair.preference) for pair in reader]
    assert pairs == [(GOOD, "It dries.", 0.0, 0.5), (GOOD, BAD, 4.0, 1.0), ("It dries.", BAD, 4.0, 1.0)]
    assert reader.problems.reasons == {"no counterpart": (1, (4,))}
    assert len({pair.id for pair in reader}) == 3
    recorded = read_candidates(path)
    assert [(group.answers, group.gold.tolist()) for group in recorded.groups] == [((GOOD, BAD, "It dries."), [4.0, 0.0, 4.0])]


def test_scored_rows_are_capped_by_a_seeded_draw(read):
    rows = [{"prompt": QUESTION, "response": f"Answer {i}.", "score": i} for i in range(10)]
    drawn = [{(pair.chosen, pair.rejected) for pair in read(*rows, max_pairs_per_prompt=6, seed=seed)[0]} for seed in (0, 0, 1)]
    assert len(drawn[0]) == 6
    assert drawn[0] == drawn[1] != drawn[2]


def test_ultrafeedback_is_the_mean_of_its_ratings_whatever_the_overall_score(tmp_path):
    def completion(text: str, helpful: str, honest: str) -> dict[str, Any]:
        ratings = {"helpfulness": {"Rating": helpful, "Rationale": "Since it is."}, "honesty": {"Rating": honest}}
        return {"response": text, "model": "m", "annotations": ratings, "overall_score": 10.0, "critique": "Well done it is."}

    row = {"source": "s", "instruction": QUESTION, "models": ["m"], "correct_answers": ["None of them"],
           "completions": [completion(BAD, "2", "1"), completion(GOOD, "5", "N/A"), completion("Dry.", "N/A", "N/A")]}  # fmt: skip
    (case,) = cases(written(tmp_path, [row]))
    assert case.gold[:2] == (1.5, 5.0)
    assert case.attributes["helpfulness"][:2] == (2.0, 5.0)
    reader = read_pairs(tmp_path / "rows.jsonl")
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in reader] == [(GOOD, BAD, 3.5)]
    assert reader.problems.reasons == {"missing score": (1, (1,))}


def test_a_ranked_list_stays_a_list_on_the_case(tmp_path):
    completions = [
        {"rank": rank, "completion": [turn("assistant", text)]} for rank, text in ((1, BAD), (0, GOOD), (2, "It flies."))
    ]
    (case,) = cases(written(tmp_path, [{"context": whole("")[:1], "completions": completions}]))
    assert (case.candidates, case.gold, case.is_scored) == ((BAD, GOOD, "It flies."), (-1.0, 0.0, -2.0), False)
    assert len(list(read_pairs(tmp_path / "rows.jsonl"))) == 3


def test_summaries_are_asked_for_as_in_the_paper_and_axes_are_attributes(read, tmp_path):
    info = {"id": "x", "post": "My bread is dry.", "title": "Bread", "subreddit": "baking"}
    row = {"info": info, "summaries": [{"text": BAD}, {"text": GOOD}], "choice": 1}
    (pair,), _ = read(row, strict=True)
    assert pair.prompt[0].content == "SUBREDDIT: r/baking\n\nTITLE: Bread\n\nPOST: My bread is dry.\n\nTL;DR:"
    (pair,), _ = read({**row, "info": {"id": "x", "article": "Bread news."}}, strict=True)
    assert pair.prompt[0].content == "Article: Bread news.\n\nTL;DR:"
    rated = [
        {"info": info, "summary": {"text": text, "axes": {"overall": n, "coverage": n + 1}}} for text, n in ((GOOD, 6), (BAD, 2))
    ]
    (case,) = cases(written(tmp_path, rated))
    assert (case.gold, case.attributes) == ((6.0, 2.0), {"coverage": (7.0, 3.0)})


@pytest.mark.parametrize(
    ("scores", "expected"), [((0.5, -0.5), (GOOD, 1.0, 1.0)), ((0.0, 0.0), (GOOD, 0.5, 0.0)), ((-1, 1), (BAD, 1.0, 2.0))]
)
def test_webgpt_scores(read, scores, expected):
    row = {
        "question": {"full_text": QUESTION, "id": "x"},
        "answer_0": GOOD,
        "answer_1": BAD,
        "score_0": scores[0],
        "score_1": scores[1],
    }
    (pair,), _ = read({**row, "quotes_0": {"title": ["A long title"]}}, strict=True)
    assert (pair.chosen, pair.preference, pair.margin) == expected


@pytest.mark.parametrize(
    ("preference", "expected"), [(1, (GOOD, 1.0)), (2, (BAD, 1.0)), (1.25, (GOOD, 0.75)), (0, (GOOD, 0.5)), (1.5, (GOOD, 0.5))]
)
def test_alpaca_farm_preferences(read, preference, expected):
    (pair,), _ = read(
        {"instruction": QUESTION, "input": "", "output_1": GOOD, "output_2": BAD, "preference": preference}, strict=True
    )
    assert (pair.chosen, pair.preference) == expected


def test_better_and_safer_are_two_sources(read):
    row = {"prompt": QUESTION, "response_0": GOOD, "response_1": BAD, "is_response_0_safe": False, "is_response_1_safe": True,
           "better_response_id": 0, "safer_response_id": 1}  # fmt: skip
    (better, safer), _ = read(row, strict=True)
    assert (better.chosen, better.source, better.id) == (GOOD, "rows:better", "1:better")
    assert (safer.chosen, safer.source, safer.tags) == (BAD, "rows:safer", {"safe": "safe > unsafe"})


def test_shp_label_1_is_the_first_reply(read):
    row = {"history": QUESTION, "human_ref_A": GOOD, "human_ref_B": BAD, "post_id": "x", "score_A": 9, "score_B": 2}
    pairs, _ = read({**row, "labels": 1}, {**row, "labels": 0}, strict=True)
    assert [(pair.prompt, pair.chosen, pair.margin) for pair in pairs] == [((USER,), GOOD, None), ((USER,), BAD, None)]


def test_messages_of_open_assistant_as_rows_give_what_their_tree_gives(read):
    def row(name: str, parent: str | None, role: str, text: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
        return {
            "message_id": name,
            "parent_id": parent,
            "role": role,
            "text": text,
            "rank": rank,
            "lang": "en",
            "user_id": "u",
            **more,
        }

    rows = [
        row("1", None, "prompter", QUESTION), row("2", "1", "assistant", BAD, 1), row("3", "1", "assistant", GOOD, 0),
        row("4", "3", "prompter", "Why?"), row("5", "4", "assistant", "So.", 1), row("6", "4", "assistant", "Because.", 0),
        row("7", "4", "assistant", "Hm.", None), row("8", "4", "assistant", "Gone.", 2, deleted=True),
        row("9", "missing", "assistant", "x", 0), row("10", "missing", "assistant", "y", 1),
    ]  # fmt: skip
    pairs, reader = read(*rows)
    assert [(pair.chosen, pair.rejected, len(pair.prompt), pair.tags) for pair in pairs] == [
        (GOOD, BAD, 1, {"lang": "en"}),
        ("Because.", "So.", 3, {"lang": "en"}),
    ]
    assert reader.problems.reasons == {"missing rank": (1, (5,)), "the message before it is missing": (1, (9,))}


# One judged answer a row.


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (1, 0),
        ("1", "0"),
        ("true", "False"),
        (1.0, 0.0),
        ("good", "bad"),
        ("desirable", "undesirable"),
        (1, -1),
        ("Yes", "No"),
        ("👍", "👎"),
    ],
)
@pytest.mark.parametrize("column", ["label", "kto_tag", "thumbs_up", "is_safe"])
def test_good_and_bad_in_every_spelling(read, good, bad, column):
    (pair,), _ = read(
        {"prompt": QUESTION, "completion": GOOD, column: good}, {"question": QUESTION, "response": BAD, column: bad}, strict=True
    )
    assert (pair.chosen, pair.rejected) == (GOOD, BAD)


def test_answers_at_the_end_of_messages_are_judged_too(read):
    (pair,), _ = read({"messages": whole(GOOD), "label": True}, {"messages": whole(BAD), "label": False}, strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((USER,), GOOD, BAD)


def test_a_label_that_is_a_number_of_points_stops_the_run(read):
    row = {"prompt": QUESTION, "completion": GOOD, "label": 3}
    with pytest.raises(DataError, match=r"neither yes nor no.*--columns score=label"):
        read(row)
    (pair,), _ = read(row, {**row, "completion": BAD, "label": "1"}, columns=["score=label"], strict=True)
    assert (pair.chosen, pair.margin) == (GOOD, 2.0)


# Tools of annotation.


def label_studio(*selected: str, cancelled: str = "") -> dict[str, Any]:
    results = [{"was_cancelled": False, "result": [{"type": "pairwise", "value": {"selected": side}}]} for side in selected]
    results += [{"was_cancelled": True, "result": [{"type": "pairwise", "value": {"selected": cancelled}}]}] if cancelled else []
    return {"id": 1, "data": {"prompt": QUESTION, "answer1": GOOD, "answer2": BAD}, "annotations": results, "predictions": []}


def test_label_studio_takes_most_votes_that_were_not_cancelled(read):
    pairs, reader = read(
        label_studio("left"),
        label_studio("left", "right", "right"),
        label_studio("left", "right", cancelled="left"),
        label_studio(),
    )
    assert [(pair.chosen, pair.preference) for pair in pairs] == [(GOOD, 1.0), (BAD, 1.0), (GOOD, 0.5)]
    assert reader.problems.reasons == {"missing label": (1, (4,))}


def test_label_studio_ranks_and_flat_exports(read):
    items = [{"id": "x", "title": "one", "body": BAD}, {"id": "y", "title": "two", "body": GOOD}]
    ranked = {
        "id": 1,
        "data": {"prompt": QUESTION, "items": items},
        "annotations": [{"result": [{"type": "ranker", "value": {"ranker": {"rank": ["y", "x"]}}}]}],
    }
    flat = {"id": 1, "prompt": QUESTION, "answer1": BAD, "answer2": GOOD, "comparison": "right", "annotator": 1, "lead_time": 2.5}
    pairs, _ = read(ranked, flat, strict=True)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(GOOD, BAD)] * 2


def test_what_tools_of_annotation_keep_in_objects_is_not_lost_either(read):
    task = {"prompt": QUESTION, "answer1": GOOD, "answer2": BAD}
    results = [{"result": [{"type": "pairwise", "value": {"selected": "left"}}]}]
    (pair,), _ = read({"data": {**task, "system": "Be brief."}, "annotations": results}, strict=True)
    assert pair.prompt == (Message("system", "Be brief."), USER)
    asked = [{"value": "answer1", "user_id": "u", "status": "submitted"}]
    rated = [{"value": 4, "user_id": "u", "status": "submitted"}]
    for row in (
        {"data": {**task, "document": "My aunt's bread."}, "annotations": results},
        {"fields": {**task, "document": "My aunt's bread."}, "responses": {"quality": rated, "preference": asked}},
    ):
        with pytest.raises(DataError, match="--ignore document"):
            read(row)
        (pair,), _ = read(row, ignore=["document"], strict=True)
        assert (pair.chosen, pair.rejected) == (GOOD, BAD)


def test_a_vote_as_a_table_of_label_studio_has_it(read):
    row = {"prompt": QUESTION, "answer1": GOOD, "answer2": BAD, "comparison": '{"selected": "right"}'}
    assert read(row, strict=True)[0][0].chosen == BAD


def test_argilla_takes_what_was_submitted_and_else_what_was_suggested(read):
    fields = {"prompt": QUESTION, "response1": GOOD, "response2": BAD}
    answers = [
        {"value": "response2", "user_id": "u", "status": "discarded"},
        {"value": "response1", "user_id": "v", "status": "submitted"},
    ]
    suggested = {
        "fields": fields,
        "responses": {},
        "suggestions": {"preference": {"value": "response2", "score": None, "agent": "a model"}},
    }
    ranking = [{"user_id": "u", "status": "submitted", "value": {"rank": [2, 1], "value": ["response1", "response2"]}}]
    pairs, _ = read(
        {"fields": fields, "responses": {"preference": answers}, "metadata": {}},
        suggested,
        {**fields, "preference": ranking, "preference-suggestion": None},
        {
            **fields,
            "preference": [ranking[0] | {"status": "discarded"}],
            "preference-suggestion": {"rank": [1, 2], "value": list(fields)[1:]},
        },
        strict=True,
    )
    assert [pair.chosen for pair in pairs] == [GOOD, BAD, BAD, GOOD]


# Messages.


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image in a message"),
        ({"type": "image"}, "image in a message"),
        ({"type": "input_audio", "input_audio": {"data": "x"}}, "audio in a message"),
        ({"type": "video", "video": "x"}, "video in a message"),
        ({"type": "hologram", "text": "x"}, "unknown content part 'hologram'"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_name(read, part, reason):
    prompt = [turn("user", [{"type": "text", "text": QUESTION}, part])]
    _, reader = read({"prompt": prompt, "chosen": GOOD, "rejected": BAD})
    assert reader.problems.reasons == {reason: (1, (1,))}


def test_parts_of_text_are_joined_and_thoughts_and_calls_in_parts_are_kept(read):
    prompt = [
        turn("user", [{"type": "text", "text": "Why does bread "}, {"type": "input_text", "text": "go stale?", "image": None}])
    ]
    thought = turn("assistant", [{"type": "thinking", "thinking": "Starch."}, {"type": "text", "text": GOOD}])
    called = turn("assistant", [{"type": "tool_use", "id": "1", "name": "lookup", "input": {"q": "starch"}}])
    (pair,), _ = read({"prompt": prompt, "chosen": [thought], "rejected": [called]}, strict=True)
    assert (pair.prompt, pair.chosen, pair.chosen_message) == ((USER,), GOOD, Message("assistant", GOOD, reasoning="Starch."))
    assert pair.rejected_message is not None
    assert pair.rejected_message.tool_calls[0].arguments == '{"q": "starch"}'


def test_roles_in_all_their_names_and_calls_of_sharegpt(read):
    turns = [
        ("system", "Be brief."),
        ("human", QUESTION),
        ("function_call", '{"name": "f", "arguments": {"x": 1}}'),
        ("observation", "dry"),
    ]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns], "chosen": {"from": "gpt", "value": GOOD}}
    (pair,), _ = read({**row, "rejected": {"from": "Model", "value": BAD}}, strict=True)
    assert [(message.role, message.content) for message in pair.prompt] == [
        ("system", "Be brief."),
        ("user", QUESTION),
        ("assistant", ""),
        ("tool", "dry"),
    ]
    assert pair.prompt[2].tool_calls[0].name == "f"
    (pair,), _ = read({"prompt": [turn("developer", "Be brief."), turn("user", QUESTION)], "chosen": GOOD, "rejected": BAD})
    assert pair.prompt[0] == Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"chosen": {"response": GOOD, "musing": "I wonder why."}}, "unknown field 'musing' of an answer"),
        ({"prompt": {"question": QUESTION, "scene": "In the old bakery."}}, "unknown field 'scene' of the prompt"),
        (
            {"prompt": [turn("user", "Hi"), turn("user", f"<|im_start|>user {QUESTION}")]},
            "marks of a chat template inside of the text",
        ),
    ],
)
def test_text_under_an_unknown_name_in_an_object_is_not_dropped(read, columns, reason):
    _, reader = read({"prompt": QUESTION, "chosen": GOOD, "rejected": BAD} | columns)
    assert reader.problems.reasons == {reason: (1, (1,))}


def test_objects_may_have_reasoning_context_and_what_tells_about_them(read):
    row = {
        "prompt": {"question": QUESTION, "context": "Bread is baked."},
        "chosen": {"response": GOOD, "reasoning": "It is the starch.", "model": "a big one"},
        "rejected": {"text": BAD, "rationale": "That is not so."},
    }
    (pair,), _ = read(row, strict=True)
    assert pair.prompt == (Message("user", f"Bread is baked.\n\n{QUESTION}"),)
    assert (pair.chosen_message, pair.rejected) == (Message("assistant", GOOD, reasoning="It is the starch."), BAD)


def test_messages_that_were_rendered_again_are_taken_apart(read):
    prompt = [turn("user", f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")]
    (pair,), _ = read({"prompt": prompt, "chosen": [turn("assistant", f"{GOOD}<|im_end|>")], "rejected": BAD}, strict=True)
    assert (pair.prompt, pair.chosen) == ((USER,), GOOD)


def test_text_under_an_unknown_name_in_a_message_is_not_dropped(read):
    _, reader = read({"prompt": [turn("user", QUESTION) | {"thoughts": "I wonder why."}], "chosen": GOOD, "rejected": BAD})
    assert reader.problems.reasons == {"unknown field 'thoughts' of a message": (1, (1,))}


def test_a_later_turn_without_the_turns_before_it_is_set_aside(tmp_path):
    """One row a turn: what was asked before stands in other rows, and answers to "and why?" of two conversations are no pair."""

    def rows(first: int) -> list[dict]:
        asked = {first: "Why do kettles whistle?", first + 1: "And why is that so?"}
        return [
            {"conversation_id": f"c{k}", "turn": turn, "user_prompt": asked[turn], "model_response": f"answer {k} {s}", "score": s}
            for k in (1, 2)
            for turn in asked
            for s in (90, 10)
        ]

    for first in (0, 1):
        file = tmp_path / f"{first}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(first)))
        reader = read_pairs(file)
        assert {pair.prompt[-1].content for pair in reader} == {"Why do kettles whistle?"}
        assert reader.problems.reasons["a later turn without the turns before it"][0] == 4


def test_the_label_c_is_a_tie_as_judges_write_it_and_else_it_may_be_a_third_answer(tmp_path):
    row = {"prompt": "Why do kettles whistle?", "response_a": "Steam, mostly.", "response_b": "Nobody knows."}
    file = tmp_path / "votes.jsonl"
    for label in ("C", "[[C]]"):
        file.write_text(json.dumps({**row, "winner": label}) + "\n")
        assert [pair.preference for pair in read_pairs(file)] == [0.5]
    file.write_text(json.dumps({**row, "winner": "c"}) + "\n")
    with pytest.raises(DataError, match="may be a tie or a third answer"):
        list(read_pairs(file))


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "null", "NULL", "N/A", " nan "])
def test_a_missing_value_that_was_written_as_text_is_no_answer_and_no_prompt(tmp_path, missing):
    row = {"prompt": "Why do kettles whistle?", "chosen": "Steam, mostly.", "rejected": "Nobody knows."}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, name: missing}) + "\n" for name in row) + json.dumps(row) + "\n")
    reader = read_pairs(file)
    assert len(list(reader)) == 1
    assert reader.problems.reasons == {"a missing value written as text": (3, (1, 2, 3))}


def test_a_number_that_is_nan_is_missing_as_in_the_parquet_files_of_data_frames(tmp_path):
    columns = {"prompt": ["Why?"] * 2, "chosen": ["Because of gold."] * 2, "rejected": ["Who knows."] * 2}
    file = tmp_path / "frame.parquet"
    pq.write_table(pa.table({**columns, "margin": [math.nan, 2.0], "weight": [1.0, math.nan]}), file)
    reader = read_pairs(file)
    assert [(pair.margin, pair.weight) for pair in reader] == [(None, 1.0), (2.0, 1.0)]
    scored = tmp_path / "scored.parquet"
    pq.write_table(
        pa.table({"prompt": ["Why?"], "responses": [["Because of gold.", "Who knows."]], "scores": [[1.0, math.nan]]}), scored
    )
    assert list(reader := read_pairs(scored)) == []
    assert list(reader.problems.reasons) == ["missing score"]


def test_a_decimal_comma_is_read_and_what_may_part_thousands_is_not(tmp_path):
    row = {"prompt": "Why do kettles whistle?", "chosen": "Steam, mostly.", "rejected": "Nobody knows."}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "margin": text}) + "\n" for text in ("1,5", "0,25", "1,500")))
    reader = read_pairs(file)
    assert [pair.margin for pair in reader] == [1.5, 0.25]
    assert list(reader.problems.reasons) == ["margin is not a number"]


def test_rows_whose_form_names_the_better_answer_say_nothing_about_places(tmp_path):
    explicit = [{"prompt": f"Why {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
    voted = [{"prompt": f"How {i}?", "response_a": f"a {i}", "response_b": f"b {i}", "winner": "ab"[i % 2]} for i in range(4)]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*explicit, *voted]))
    reader = read_pairs(file)
    assert len(list(reader)) == 10
    metric = first_wins(reader.positions)
    assert (metric.value, metric.n) == (0.5, 4)
    file.write_text("".join(json.dumps(row) + "\n" for row in explicit))
    assert len(list(reader)) == 6
    assert math.isnan(first_wins(reader.positions).value)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (("frage", "gut", "schlecht"), "prompt=frage chosen=gut rejected=schlecht"),
        (("criteria", "task", "answer_good", "answer_weak"), "prompt=criteria chosen=answer_good rejected=answer_weak"),
        (("prompt", "rubric"), "prompt=prompt chosen=COLUMN_OF_THE_BETTER rejected=COLUMN_OF_THE_WORSE"),
    ],
)
def test_the_remedy_names_columns_that_look_like_answers_or_says_that_they_are_to_be_filled_in(columns, named):
    row = {name: f"Some words about the {name} of it." for name in columns}
    assert suggestion(row).startswith(f"--columns {named} ")
