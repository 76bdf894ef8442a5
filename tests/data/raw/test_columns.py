"""No column is misread in silence: a prompt has all its columns, numbers are listed, text that nobody knows stops the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assay.data.pairs import PairReader, read_pairs
from assay.data.raw.columns import RowView, is_prose, renaming
from assay.errors import DataError
from assay.messages import Message
from assay.records import PreferencePair

QUESTION, GOOD, BAD = "Why does bread go stale?", "The starch slowly crystallises again.", "The starch runs away at night."
USER = Message("user", QUESTION)
ANSWERS = {"chosen": GOOD, "rejected": BAD}


@pytest.fixture
def read(tmp_path: Path):
    def run(*rows: Any, **options: Any) -> tuple[list[PreferencePair], PairReader]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reader = read_pairs(path, **options)
        return list(reader), reader

    return run


HI = (Message("user", "Hi"), Message("assistant", "Hello"))
SYSTEM = Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"instruction": QUESTION}, (USER,)),
        ({"instruction": QUESTION, "input": ""}, (USER,)),
        ({"instruction": "Answer.", "input": QUESTION}, (Message("user", f"Answer.\n{QUESTION}"),)),
        ({"prompt": "Answer.", "input": QUESTION}, (Message("user", f"Answer.\n{QUESTION}"),)),
        ({"question": QUESTION}, (USER,)),
        ({"query": QUESTION}, (USER,)),
        ({"input": QUESTION}, (USER,)),
        ({"user_prompt": QUESTION}, (USER,)),
        ({"context": QUESTION}, (USER,)),
        ({"context": "Bread is baked.", "question": QUESTION}, (Message("user", f"Bread is baked.\n\n{QUESTION}"),)),
        ({"instruction": QUESTION, "context": "Bread is baked."}, (Message("user", f"{QUESTION}\n\nBread is baked."),)),
        ({"title": "Bread", "text": QUESTION}, (Message("user", f"Bread\n\n{QUESTION}"),)),
        ({"title": QUESTION}, (USER,)),
        ({"post": QUESTION, "title": "Bread"}, (Message("user", f"Bread\n\n{QUESTION}"),)),
        ({"history": QUESTION}, (USER,)),
        ({"messages": [{"role": "user", "content": QUESTION}]}, (USER,)),
        ({"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": GOOD}]}, (USER,)),
        ({"conversations": [{"from": "human", "value": QUESTION}]}, (USER,)),
        ({"trajectory": [{"from": "user", "value": QUESTION}]}, (USER,)),
        ({"conversation": [{"input": "Hi", "output": "Hello"}, {"input": QUESTION, "output": None}]}, (*HI, USER)),
        ({"prompt": {"messages": [{"role": "user", "content": QUESTION}]}}, (USER,)),
        ({"prompt": {"text": QUESTION}}, (USER,)),
        ({"prompt": [QUESTION]}, (USER,)),
        ({"prompt": None, "question": QUESTION}, (USER,)),
        ({"prompt": QUESTION, "system": "Be brief."}, (SYSTEM, USER)),
        ({"prompt": QUESTION, "system_prompt": "Be brief."}, (SYSTEM, USER)),
        ({"prompt": QUESTION, "system": ""}, (USER,)),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}], "system": "Be brief."},
            (SYSTEM, USER),
        ),
        ({"prompt": QUESTION, "history": [["Hi", "Hello"]]}, (*HI, USER)),
        ({"prompt": QUESTION, "history": json.dumps([["Hi", "Hello"]])}, (*HI, USER)),
        (
            {"prompt": QUESTION, "history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
            (*HI, USER),
        ),
        ({"prompt": QUESTION, "history": [["Hi", "Hello"]], "system": "Be brief."}, (SYSTEM, *HI, USER)),
        ({"prompt": QUESTION, "history": []}, (USER,)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_every_column_of_a_prompt_is_in_it(read, columns, prompt):
    (pair,), _ = read({**columns, **ANSWERS}, strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, GOOD, BAD)


@pytest.mark.parametrize("name", ["document", "story", "persona", "bemerkung", "notes", "code_snippet"])
def test_text_that_nobody_knows_stops_the_run_and_says_what_to_do(read, name):
    row = {"prompt": QUESTION, **ANSWERS, name: "Bread goes stale."}
    with pytest.raises(DataError) as error:
        read(row)
    for said in (f"the column {name!r}", f"--columns prompt={name}", f"--ignore {name}", f"{name}: Bread goes stale.", "line 1"):
        assert said in str(error.value)
    (pair,), reader = read(row, ignore=[name])
    assert (pair.chosen, reader.problems.ignored) == (GOOD, {})


def test_all_columns_that_nobody_knows_are_named_at_once(read):
    row = {"prompt": QUESTION, **ANSWERS, "story": "Bread goes stale.", "my notes": "Look at the crust.", "points": 3}
    with pytest.raises(DataError, match=r"the column 'story' .*; the column 'my notes' .* --ignore story 'my notes', or") as error:
        read(row)
    assert "points'" not in str(error.value), "numbers are listed, not refused"
    (pair,), _ = read(row, ignore=["story", "my notes"])
    assert pair.chosen == GOOD


def test_text_that_comes_late_or_deep_stops_the_run_too(read):
    plain = {"prompt": QUESTION, **ANSWERS, "extra": None}
    with pytest.raises(DataError, match="line 3: the column 'extra'"):
        read(plain, plain, {**plain, "extra": "The bread of my aunt."})
    with pytest.raises(DataError, match="'extra'"):
        read({**plain, "extra": {"turns": [{"x": ["The bread of my aunt."]}]}})
    with pytest.raises(DataError, match="'extra'"):
        read({**plain, "extra": "パンはなぜ固くなりますか"})


def test_numbers_names_and_single_words_are_listed_once_with_an_example(read):
    rows = [
        {
            "prompt": QUESTION,
            **ANSWERS,
            "num_turns": i,
            "quality_tier": "gold",
            "uuid4": f"a-{i}",
            "flag": True,
            "when": "2024-01-01 10:00:00",
        }
        for i in range(1, 3)
    ]
    pairs, reader = read(*rows)
    assert len(pairs) == 2
    assert reader.problems.ignored == {
        "num_turns": "1", "quality_tier": "gold", "uuid4": "a-1", "flag": "true", "when": "2024-01-01 10:00:00",
    }  # fmt: skip
    assert "columns not read: num_turns (1), quality_tier (gold)" in reader.summary()


def test_what_only_repeats_the_row_or_tells_about_it_is_no_unknown_text(read):
    whole = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": GOOD}]
    told = {"messages": whole, "question": QUESTION, "response": GOOD}
    about = {
        "rationale": "It is true and clear.",
        "chosen_model": "a big model",
        "metadata": {"note": "from the web"},
        "source_url": "a b",
    }
    (pair,), reader = read({"prompt": QUESTION, **ANSWERS, **told, **about}, strict=True)
    assert pair.prompt == (USER,)
    assert list(reader.problems.ignored) == list(about)
    with pytest.raises(DataError, match="'question'"):
        read({"prompt": QUESTION, **ANSWERS, "question": "Another question?"})


def test_columns_are_told_by_the_caller(read):
    row = {
        "good": GOOD,
        "bad": BAD,
        "task_text": QUESTION,
        "note": "Written by hand.",
        "gap": "0.5",
        "w": 2,
        "key": 7,
        "rule": "Be brief.",
    }
    with pytest.raises(DataError) as error:
        read(row)
    assert "good: The starch slowly" in str(error.value)
    assert "--columns " in str(error.value)
    columns = ["prompt=task_text", "chosen=good", "rejected=bad", "margin=gap", "weight=w", "id=key", "system=rule"]
    (pair,), _ = read(row, columns=columns, ignore=["note"], strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((SYSTEM, USER), GOOD, BAD)
    assert (pair.margin, pair.weight, pair.id) == (0.5, 2.0, "7")


def test_the_error_suggests_the_columns_that_are_there(read):
    with pytest.raises(DataError, match="--columns prompt=instruction chosen=good rejected=bad"):
        read({"instruction": QUESTION, "good": GOOD, "bad": BAD})


@pytest.mark.parametrize(
    ("columns", "ignore", "message"),
    [
        (["promt=x"], [], "one of prompt, chosen"),
        (["prompt"], [], "give MEANING=COLUMN"),
        (["prompt=x", "prompt=y"], [], "given twice"),
        (["prompt=x"], ["x"], "given twice"),
    ],
)
def test_a_wrong_renaming_is_refused(columns, ignore, message):
    with pytest.raises(DataError, match=message):
        renaming(columns, ignore)


def test_a_column_that_is_named_and_not_there_is_refused(read):
    with pytest.raises(DataError, match="no column 'questoin'"):
        read({"question": QUESTION, **ANSWERS}, columns={"prompt": "questoin"})


def test_an_empty_prompt_beside_whole_conversations_is_as_if_it_were_absent(read):
    whole = {
        side: [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text}] for side, text in ANSWERS.items()
    }
    texts = {side: f"\n\nHuman: {QUESTION}\n\nAssistant: {text}" for side, text in ANSWERS.items()}
    for prompt in (None, "", [], " "):
        for answers in (whole, texts):
            (pair,), _ = read({"prompt": prompt, **answers}, strict=True)
            assert (pair.prompt, pair.chosen, pair.rejected) == ((USER,), GOOD, BAD)


def test_messages_that_end_with_a_third_answer_are_no_prompt(read):
    third = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "It flies."}]
    _, reader = read({"messages": third, **ANSWERS})
    assert reader.problems.reasons == {"the messages end with an answer that is neither of the two": (1, (1,))}
    (pair,), _ = read({"prompt": third, **ANSWERS})
    assert pair.prompt == (USER, Message("assistant", "It flies.")), "a prompt may begin the answer"


def test_a_row_with_a_column_of_the_prompt_is_never_split_by_its_beginning(read):
    pairs, reader = read({"prompt": None, **ANSWERS})
    assert (pairs, reader.problems.reasons) == ([], {"empty": (1, (1,))})
    _, reader = read({"chosen": f"{QUESTION} {GOOD}", "rejected": f"{QUESTION} {BAD}"})
    assert "no column of the prompt: it is what both texts begin with (1 rows)" in reader.summary()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image", {"bytes": None, "path": "a.jpg"}),
        ("images", ["a.jpg"]),
        ("image_path", "a.jpg"),
        ("audio", "a.wav"),
        ("video_url", "http://x"),
    ],
)
def test_rows_with_images_audio_or_video_are_set_aside_by_name(read, column, value):
    row = {"question": QUESTION, **ANSWERS}
    pairs, reader = read({**row, column: value}, {**row, column: None}, row)
    assert len(pairs) == 2
    kind = column.partition("s")[0].partition("_")[0]
    assert list(reader.problems.reasons) == [f"{kind} in the column {column} (--ignore {column}: the text alone)"]
    assert len(read({**row, column: value}, ignore=[column])[0]) == 1


@pytest.mark.parametrize("name", ["task", "category", "topic", "rationale"])
def test_where_the_prompt_is_only_guessed_any_other_text_stops_the_run(read, name):
    with pytest.raises(DataError, match=f"--columns prompt={name}"):
        read({name: QUESTION, **ANSWERS})
    (pair,), _ = read({name: QUESTION, "prompt": QUESTION, **ANSWERS})
    assert pair.prompt == (USER,)


def test_a_list_that_both_answers_were_chosen_from_is_no_unknown_text(read):
    row = {"prompt": QUESTION, **ANSWERS, "samples": [BAD, "It flies away.", GOOD]}
    assert len(read(row, strict=True)[0]) == 1
    with pytest.raises(DataError, match="'samples'"):
        read({**row, "samples": ["It flies away.", GOOD]})


@pytest.mark.parametrize(
    "row",
    [
        {"Prompt": QUESTION, "Chosen": GOOD, "Rejected": BAD},
        {" prompt ": QUESTION, "Chosen Response": GOOD, "rejected-response": BAD},
        {"userPrompt": QUESTION, "chosenAnswer": GOOD, "rejectedAnswer": BAD},
        {"PROMPT": QUESTION, "RESPONSE_1": BAD, "RESPONSE_2": GOOD, "PREFERENCE": "Response 2"},
        {"Question": QUESTION, "Response A": GOOD, "Response B": BAD, "Winner": "Response A"},
    ],
    ids=lambda row: "+".join(row),
)
def test_names_may_be_spelled_otherwise(read, row):
    (pair,), _ = read(row, strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((USER,), GOOD, BAD)


def test_two_answers_and_a_vote_may_be_told_and_the_vote_may_name_a_column(read):
    row = {"frage": QUESTION, "eins": BAD, "zwei": GOOD, "urteil": "zwei"}
    columns = {"prompt": "frage", "response_a": "eins", "response_b": "zwei", "winner": "urteil"}
    (pair,), _ = read(row, columns=columns, strict=True)
    assert (pair.chosen, pair.rejected) == (GOOD, BAD)


def test_words_in_the_column_of_a_probability_stop_the_run(read):
    row = {"prompt": QUESTION, **ANSWERS, "preference": "code-style"}
    with pytest.raises(DataError, match=r"'code-style', which is no probability .* --ignore preference"):
        read(row)
    assert len(read(row, ignore=["preference"])[0]) == 1


def test_columns_of_lists_are_lists_of_messages(read):
    row = {side: {"role": ["user", "assistant"], "content": [QUESTION, text]} for side, text in ANSWERS.items()}
    (pair,), _ = read(row, strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((USER,), GOOD, BAD)


def test_dataset_info_says_what_the_columns_are(tmp_path):
    row = {"q": QUESTION, "more": "", "good": GOOD, "bad": BAD, "persona": "Be brief."}
    (tmp_path / "mine.json").write_text(json.dumps([row]))
    names = {"prompt": "q", "query": "more", "chosen": "good", "rejected": "bad", "system": "persona"}
    info = {"mine": {"file_name": "mine.json", "ranking": True, "columns": names}, "other": {"file_name": "sft.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    for path in ("mine.json", "dataset_info.json", "dataset_info.json#mine", ""):
        (pair,) = read_pairs(tmp_path / path, strict=True)
        assert (pair.prompt, pair.chosen, pair.rejected) == ((SYSTEM, USER), GOOD, BAD)
    (tmp_path / "dataset_info.json").write_text(json.dumps({**info, "third": info["mine"]}))
    with pytest.raises(DataError, match=r"dataset_info\.json#mine, .*#third"):
        read_pairs(tmp_path / "dataset_info.json")


def test_a_view_knows_what_was_read():
    view = RowView({"prompt": "p", "chosen_response": "a", "rejected": "b", "extra": 1})
    assert (view["chosen"], view.get("absent"), view.unread) == ("a", None, ["prompt", "rejected", "extra"])
    assert "chosen" in view
    assert "margin" not in view


@pytest.mark.parametrize(
    ("text", "is_text"),
    [
        ("two words", True),
        ("word", False),
        ("2024-01-01 10:00", False),
        ("a-b_c", False),
        ("", False),
        ("パンはなぜ", True),
        ("GPT 4", False),
    ],
)
def test_prose_is_several_words(text, is_text):
    assert is_prose(text) == is_text
