"""Reading: every form gives the pairs that its labels mean, every bad row is counted with its reason, nothing is held."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from assay.data.pairs import ALL_FORMS, PairReader, read_completions, read_pairs, write_pairs
from assay.errors import DataError
from assay.messages import Message, ToolCall
from assay.records import Completion, PreferencePair

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

USER = Message("user", "What is 2 + 2?")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSON lines; a string stands for a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def read(tmp_path: Path):
    """read(rows, ...) -> (pairs, reader) of a jsonl file with these rows."""

    def run(*rows: Any, **options: Any) -> tuple[list[PreferencePair], PairReader]:
        reader = read_pairs(write_rows(tmp_path / "rows.jsonl", rows), **options)
        return list(reader), reader

    return run


# The forms, each by what a person who knows its labels would expect.


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 + 2?", "chosen": "four", "rejected": "five"},
        {"prompt": [turn(*USER[:2])], "chosen": [turn("assistant", "four")], "rejected": [turn("assistant", "five")]},
        {"prompt": [turn(*USER[:2])], "chosen": "four", "rejected": turn("assistant", "five")},
        {
            "prompt": "What is 2 + 2?",
            "chosen": [turn(*USER[:2]), turn("assistant", "four")],
            "rejected": [turn(*USER[:2]), turn("assistant", "five")],
        },
        {"chosen": [turn(*USER[:2]), turn("assistant", "four")], "rejected": [turn(*USER[:2]), turn("assistant", "five")]},
        {"chosen": "What is 2 + 2? four", "rejected": "What is 2 + 2? five"},
        {
            "chosen": "\n\nHuman: What is 2 + 2?\n\nAssistant: four",
            "rejected": "\n\nHuman: What is 2 + 2?\n\nAssistant: five",
        },
        {"prompt": "\n\nHuman: What is 2 + 2?\n\nAssistant:", "chosen": "four", "rejected": "five"},
        {"prompt": "What is 2 + 2?", "chosen": ["four"], "rejected": ["five"], "num_correct": 1, "id": "7", "subset": "Math"},
        {"conversation_input": [turn(*USER[:2])], "chosen": {"answer": "four"}, "reject": {"answer": "five"}},
        {"conversation_input": [turn(*USER[:2])], "bon_best": {"answer": "four"}, "loser_list": [{"answer": "five"}]},
        {"prompt": "What is 2 + 2?", "responses": ["five", "four"], "ranks": [2, 1]},
        {"prompt": "What is 2 + 2?", "answers": [{"answer": "five", "rank": 2}, {"answer": "four", "rank": 1}]},
        {"input": "What is 2 + 2?", "output_1": "five", "output_2": "four", "label": 2},
        {"prompt": "What is 2 + 2?", "response 1": "five", "response 2": "four", "label": 1, "scenario": "math"},
        {
            "instruction": "What is 2 + 2?",
            "input": "",
            "response1": "four",
            "response2": "five",
            "annotator1": 1,
            "annotator2": 0,
            "annotator3": 1,
        },
        {"question": "What is 2 + 2?", "gpt35": "five", "vicuna_13b": "four", "human": "VICUNA13B"},
        {
            "pair_id": "u1",
            "question": "What is 2 + 2?",
            "response_A": "five",
            "response_B": "four",
            "label": "B>A",
            "source": "gsm",
        },
        {"question_id": "q", "prompt": "What is 2 + 2?", "response_1": "four", "response_2": "five", "winner": "model_a"},
        {
            "question_id": "q",
            "prompt": "What is 2 + 2?",
            "response_1": "five",
            "response_2": "six",
            "response_3": "four",
            "scores": [False, False, True],
            "sampled_conflict_pairs": [[0, 2]],
            "model_name": "m",
        },
        {"prompt": "What is 2 + 2?", "candidates": ["five", "four"], "correct": 1},
        {"input": "What is 2 + 2?", "targets": {"choices": ["five", "four"], "labels": [0, 1]}},
    ],
    ids=lambda row: "+".join(row),
)
def test_every_form_of_one_preference_gives_the_same_pair(read, row):
    (pair,), reader = read(row, strict=True)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.preference) == ((USER,), "four", "five", 1.0)
    assert (pair.source, reader.problems.num_rows, reader.problems.num_pairs) == ("rows", 1, 1)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is blueish.", "The sky is", ("blue.", "blueish.")),
        ("Q: yes?\nA: no", "Q: yes?\nA: not at all", "Q: yes?\nA:", ("no", "not at all")),
        ("Say yes", "Say yes twice", "Say", ("yes", "yes twice")),
    ],
)
def test_an_implicit_text_prompt_ends_at_white_space(read, chosen, rejected, prompt, answers):
    (pair,), _ = read({"chosen": chosen, "rejected": rejected})
    assert (pair.prompt[0].content, (pair.chosen, pair.rejected)) == (prompt, answers)


def test_a_transcript_becomes_turns(read):
    shared = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Bye"
    (pair,), _ = read({"chosen": shared + "\n\nAssistant: See you", "rejected": shared + "\n\nAssistant: No\n\nstay"})
    assert pair.prompt == (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye"))
    assert (pair.chosen, pair.rejected) == ("See you", "No\n\nstay")


def test_rm_bench_is_nine_pairs_easy_below_the_diagonal_and_hard_above(read):
    row = {"id": 8, "prompt": "p", "subset": "chat", "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"]}
    pairs, _ = read(row)
    difficulty = {(pair.chosen, pair.rejected): pair.tags["difficulty"] for pair in pairs}
    assert {pairing for pairing, name in difficulty.items() if name == "easy"} == {("c1", "r0"), ("c2", "r0"), ("c2", "r1")}
    assert {pairing for pairing, name in difficulty.items() if name == "hard"} == {("c0", "r1"), ("c0", "r2"), ("c1", "r2")}
    assert (pairs[1].tags["style_chosen"], pairs[1].tags["style_rejected"]) == ("concise", "detailed")
    assert [pair.id for pair in pairs][:2] == ["8:0-0", "8:0-1"]
    assert {pair.tags["subset"] for pair in pairs} == {"chat"}


def test_three_correct_answers_of_rewardbench_2_carry_no_style(read):
    row = {"id": "t", "prompt": "p", "subset": "Ties", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"], "num_correct": 3}
    pairs, _ = read(row)
    assert len(pairs) == 9
    assert pairs[0].tags == {"subset": "Ties"}


def test_scores_become_margins_and_equal_scores_a_tie(read):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": s, "score_rejected": 4.0} for s in (7.5, 4.0, 3.0)]
    pairs, reader = read(*rows)
    assert [(pair.margin, pair.preference) for pair in pairs] == [(3.5, 1.0), (0.0, 0.5)]
    assert reader.problems.reasons == {"margin is negative": (1, (3,))}


def test_soft_labels_weights_and_tags_are_kept(read):
    row = {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "preference": 0.8,
        "weight": 2,
        "tags": {"axis": "safety"},
        "dataset": "d",
    }
    (pair,), _ = read(row)
    assert (pair.preference, pair.margin, pair.weight, pair.tags) == (0.8, None, 2.0, {"axis": "safety", "dataset": "d"})


def test_a_ranked_list_is_all_its_pairs_with_ties_and_counted_gaps(read):
    pairs, reader = read({"prompt": "p", "responses": ["a", "b", "c", "d"], "ranks": [2, 1, 2, None]})
    assert [(pair.chosen, pair.rejected, pair.preference) for pair in pairs] == [("b", "a", 1.0), ("b", "c", 1.0), ("a", "c", 0.5)]
    assert reader.problems.reasons == {"missing rank": (1, (1,))}


def test_a_scored_list_has_margins(read):
    pairs, _ = read({"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 3.5]})
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in pairs] == [("b", "a", 2.5)]


def test_a_message_tree_gives_ranked_siblings_after_the_turns_that_lead_to_them(read):
    def node(role: str, text: str, rank: int | None = None, replies: Iterable[Any] = ()) -> dict[str, Any]:
        return {"message_id": text, "role": role, "text": text, "rank": rank, "replies": list(replies)}

    follow_up = node(
        "prompter", "why", replies=[node("assistant", "so", 1), node("assistant", "because", 0), node("assistant", "?")]
    )
    tree = node("prompter", "hi", replies=[node("assistant", "bad", 1), node("assistant", "good", 0, [follow_up])])
    pairs, reader = read({"message_tree_id": "t", "prompt": tree})
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("good", "bad"), ("because", "so")]
    assert pairs[1].prompt == (Message("user", "hi"), Message("assistant", "good"), Message("user", "why"))
    assert len({pair.id for pair in pairs}) == 2
    assert reader.problems.reasons == {"missing rank": (1, (1,))}


@pytest.mark.parametrize(("label", "expected"), [(0, ("a", "b", 1.0)), (1, ("b", "a", 1.0)), (2, ("a", "b", 0.5))])
def test_auto_j_labels_count_from_zero_and_two_is_a_tie(read, label, expected):
    (pair,), _ = read({"prompt": "p", "response 1": "a", "response 2": "b", "label": label})
    assert (pair.chosen, pair.rejected, pair.preference) == expected


def test_three_annotators_decide_by_majority(read):
    base = {"instruction": "do", "input": "this", "response1": "a", "response2": "b"}
    votes = [(2, 2, 2), (0, 0, 1), (0, 1, 2)]
    pairs, reader = read(*[base | {f"annotator{k}": vote for k, vote in enumerate(three, 1)} for three in votes])
    assert [(pair.chosen, pair.preference, pair.tags["agreement"]) for pair in pairs] == [
        ("b", 1.0, "3 of 3"),
        ("a", 0.5, "2 of 3"),
    ]
    assert pairs[0].prompt[0].content == "do\n\nthis"
    assert reader.problems.reasons == {"no majority": (1, (3,))}


def test_pointwise_labels_pair_good_with_bad_answers_of_one_prompt(read):
    answers = [("q", "true 1", True), ("q", "false 1", False), ("q", "true 2", True), ("q", "both", True), ("q", "both", False)]
    answers += [("q", "true 1", True), ("alone", "x", True)]
    pairs, reader = read(*[{"question": q, "answer": a, "truthful": label} for q, a, label in answers])
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {("true 1", "false 1"), ("true 2", "false 1")}
    assert reader.problems.reasons == {
        "repeated answer": (1, (6,)),
        "label disputed": (2, (4, 5)),
        "no counterpart": (1, (7,)),
    }
    assert reader.problems.num_rows == 7
    assert {pair.id for pair in pairs} == {"1-2", "3-2"}, "the numbers of both rows"


def test_pointwise_pairs_are_capped_by_a_seeded_draw_that_ignores_other_prompts(read):
    rows = [{"prompt": "p", "completion": f"{label} {i}", "label": label} for i in range(10) for label in (True, False)]
    other = [{"prompt": "q", "completion": str(label), "label": label} for label in (True, False)]

    def drawn(*rows: Any, seed: int = 0) -> set[tuple[str, str]]:
        pairs, _ = read(*rows, max_pairs_per_prompt=5, seed=seed)
        return {(pair.chosen, pair.rejected) for pair in pairs if pair.prompt[0].content == "p"}

    assert len(drawn(*rows)) == 5
    assert drawn(*rows) == drawn(*other, *rows)
    assert drawn(*rows) != drawn(*rows, seed=1)


def test_xstest_prefers_refusal_where_the_prompt_is_unsafe(read):
    rows = [
        {"prompt": kind, "completion": text, "type": kind, "final_label": label}
        for kind in ("homonyms", "contrast_homonyms")
        for text, label in (("Sure", "1_full_compliance"), ("No", "2_full_refusal"), ("Hm", "3_partial_refusal"))
    ]
    pairs, reader = read(*rows)
    assert {pair.tags["type"]: pair.chosen for pair in pairs} == {"homonyms": "Sure", "contrast_homonyms": "No"}
    assert reader.problems.reasons == {"neither complies nor refuses": (2, (3, 6))}


def test_a_directory_of_outputs_and_soft_preferences_is_joined(tmp_path):
    write_rows(tmp_path / "prompts.jsonl", [{"prompt_id": 1, "instruction": "p", "dataset": "koala"}])
    write_rows(tmp_path / "outputs.jsonl", [{"model": m, "prompt_id": 1, "output": f"by {m}"} for m in "ab"])
    labels = [("a", 0.75), ("a", 0.25), ("a", 0.5), ("missing", 1.0)]
    write_rows(
        tmp_path / "preferences.jsonl",
        [{"judge": "j", "model": model, "reference": "b", "prompt_id": 1, "p_model": p} for model, p in labels],
    )
    reader = read_pairs(tmp_path)
    assert [(pair.chosen, pair.rejected, pair.preference) for pair in reader] == [
        ("by a", "by b", 0.75),
        ("by b", "by a", 0.75),
        ("by a", "by b", 0.5),
    ]
    assert reader.problems.reasons == {"text missing in the joined files": (1, (4,))}
    assert next(iter(reader)).tags == {"dataset": "koala", "judge": "j"}
    assert len(list(read_pairs(tmp_path / "preferences.jsonl"))) == 3


def test_two_scores_of_a_joined_review_are_a_margin(tmp_path):
    write_rows(tmp_path / "questions.jsonl", [{"question_id": 1, "text": "p", "category": "math"}])
    write_rows(tmp_path / "answers.jsonl", [{"answer_id": a, "text": f"by {a}"} for a in "ab"])
    scores = [[7, 8.5], [9, 9], [-1, -1]]
    rows = [{"question_id": 1, "answer1_id": "a", "answer2_id": "b", "score": score} for score in scores]
    reader = read_pairs(write_rows(tmp_path / "gpt4_reviews.jsonl", rows))
    assert [(pair.chosen, pair.margin, pair.preference) for pair in reader] == [("by b", 1.5, 1.0), ("by a", 0.0, 0.5)]
    assert reader.problems.reasons == {"score is not two numbers": (1, (3,))}


# Bad rows and unknown files.


def pair_row(**changes: Any) -> dict[str, Any]:
    return {"prompt": "p", "chosen": "a", "rejected": "b"} | changes


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}', "not text"),
        (pair_row(chosen=True), "not text"),
        (pair_row(chosen=" \n"), "empty"),
        (pair_row(rejected=None), "empty"),
        (pair_row(prompt=[]), "empty"),
        (pair_row(rejected="a "), "identical pair"),
        (pair_row(preference=0.5, rejected="a"), "identical pair"),
        (pair_row(margin=-0.5), "margin is negative"),
        (pair_row(margin="big"), "margin is not a number"),
        (pair_row(preference=1.5), "preference is not a probability"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "preference": NaN}', "preference is not a number"),
        (pair_row(prompt=[turn("bot", "p")]), "unknown role 'bot'"),
        (pair_row(chosen=[turn("user", "a")]), "no answer at the end"),
        (pair_row(chosen=[turn("user", "other"), turn("assistant", "a")]), "prompts differ"),
        (
            {"chosen": [turn("user", "x"), turn("assistant", "a")], "rejected": [turn("user", "y"), turn("assistant", "b")]},
            "prompts differ",
        ),
        ({"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"}, "prompts differ"),
        ({"chosen": "\n\nHuman: x", "rejected": "\n\nHuman: x\n\nAssistant: b"}, "no answer at the end"),
        ({"chosen": "nothing shared", "rejected": "at all"}, "no shared prompt"),
        ({"input": "p", "output_1": "a", "output_2": "b", "label": True}, "unknown label"),
        ({"other": 1}, "unknown columns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "row",
)
def test_a_bad_row_is_counted_with_its_reason_and_line_and_strict_makes_it_fatal(read, row, reason):
    pairs, reader = read(pair_row(), row, pair_row())
    assert len(pairs) == 2
    assert reader.problems.reasons == {reason: (1, (2,))}
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: {reason}"):
        read(pair_row(), row, strict=True)


def test_the_summary_counts_rows_pairs_and_reasons(read):
    rows = [pair_row() for _ in range(1200)]
    for i in (13, 89):
        rows[i] = pair_row(rejected="")
    rows[32] = pair_row(rejected="a")
    pairs, reader = read(*rows)
    assert reader.summary() == ("1,200 rows -> 1,197 pairs; 3 set aside: 2 empty (lines 14, 90), 1 identical pair (line 33)")
    assert list(reader) == pairs
    assert reader.problems.num_rows == 1200, "a second iteration counts anew"


def test_unknown_columns_name_what_was_found_and_every_form_that_is_accepted(read):
    with pytest.raises(DataError) as error:
        read({"frage": "p", "antwort": "a"})
    assert "frage, antwort" in str(error.value)
    for form in ALL_FORMS:
        assert f"{form.name}: {', '.join(form.columns)}" in str(error.value)
    with pytest.raises(DataError, match="llmbar: input, output_1"):
        read(pair_row(), form="llmbar")
    with pytest.raises(DataError, match="unknown form 'llmbars'"):
        read(pair_row(), form="llmbars")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "does not exist"),
        ("table.txt", b"prompt,chosen", "unknown kind"),
        ("pretty.jsonl", b'{\n "prompt": "p"\n}', "no row of .* is a JSON object"),
        ("cut.jsonl.gz", gzip.compress(b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n' * 9, mtime=0)[:-12], "damaged"),
        ("cut.json", b'[{"prompt": "p"', "not a JSON array"),
        ("cut.parquet", b"PAR1", "not a parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_pairs(tmp_path / name))


def test_a_directory_without_pairs_says_how_to_load_it(tmp_path):
    with pytest.raises(DataError, match="hub:"):
        read_pairs(tmp_path)


# Kinds of file.

ROWS = [pair_row(prompt=f"p{i}", subset="s") for i in range(3)]


def test_every_kind_of_file_gives_the_same_pairs(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "set.jsonl").write_bytes(lines)
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "set.json").write_bytes(lines)
    (tmp_path / "set.json").write_text(json.dumps(ROWS, indent=1))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "set.parquet")
    expected = [
        PreferencePair(prompt=f"p{i}", chosen="a", rejected="b", source="set", id=str(i + 1), tags={"subset": "s"})
        for i in range(3)
    ]
    for name in ("set.jsonl", "set.jsonl.gz", "lines/set.json", "set.json", "set.parquet"):
        assert list(read_pairs(tmp_path / name)) == expected, name
    two = [list(read_pairs(tmp_path / name, limit=2)) for name in ("set.jsonl", "set.parquet")]
    assert two[0] == two[1]
    assert [pair for pair in expected if pair in two[0]] == two[0]
    assert len(two[0]) == 2


def test_a_hub_data_set_streams_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "org").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "org" / "train.parquet")
    reader = read_pairs(f"hub:{tmp_path / 'org'}")
    assert [pair.prompt[0].content for pair in reader] == ["p0", "p1", "p2"]
    assert reader.source == str(tmp_path / "org")
    with pytest.raises(DataError, match="split 'test'"):
        list(read_pairs(f"hub:{tmp_path / 'org'}", split="test"))


@pytest.mark.parametrize("is_off", [True, False])
def test_a_hub_data_set_draws_no_bars_and_leaves_them_as_they_were(is_off, monkeypatch):
    utils, seen = datasets.utils, []

    def load_dataset(*_, **__):
        seen.append(utils.are_progress_bars_disabled())
        return iter(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    (utils.disable_progress_bars if is_off else utils.enable_progress_bars)()
    try:
        assert len(list(read_pairs("hub:org/set"))) == 3
        assert (seen, utils.are_progress_bars_disabled()) == ([True], is_off)
    finally:
        utils.enable_progress_bars()


def test_pairs_are_read_back_exactly_as_they_were_written(tmp_path):
    pairs = [
        PreferencePair(prompt="p", chosen=" a\u2028", rejected="b\r\n"),
        PreferencePair(
            prompt=(Message("system", ""), Message("user", "\n\nHuman: ü\n\nAssistant:"), Message("assistant", "So")),
            chosen="\n\nHuman: c",
            rejected="d",
            preference=0.5,
            margin=0.0,
            weight=0.25,
            source="elsewhere",
            id="x:1",
            tags={"axis": "safety", "subset": "s"},
        ),
        PreferencePair(prompt="p", chosen="a", rejected="b", preference=0.1, margin=1e-9, id="same"),
    ]
    for name in ("own.jsonl", "own.jsonl.gz"):
        assert write_pairs(tmp_path / name, iter(pairs)) == 3
        first = (tmp_path / name).read_bytes()
        assert list(read_pairs(tmp_path / name, strict=True)) == pairs
        write_pairs(tmp_path / name, read_pairs(tmp_path / name))  # in place: the file is replaced when it is complete
        assert (tmp_path / name).read_bytes() == first
    write_pairs(tmp_path / "none.jsonl", [])
    assert list(read_pairs(tmp_path / "none.jsonl")) == []


# What a message, a prompt and a row have beside text.

LOOKUP = {"type": "function", "function": {"name": "lookup", "arguments": {"q": "starch"}}}
TOOL = {"type": "function", "function": {"name": "lookup"}}
ASKED = (
    Message("user", "Why does bread go stale?"),
    Message("assistant", "", (ToolCall("lookup", '{"q": "starch"}'),)),
    Message("tool", "retrogradation"),
)
ASKED_ROW = [turn("user", ASKED[0].content), turn("assistant", "") | {"tool_calls": [LOOKUP]}, turn("tool", "retrogradation")]
THOUGHT = Message("assistant", "four", reasoning="2 + 2 is 4.")


def test_tool_calls_and_tools_of_the_prompt_are_kept(read):
    answers = {"chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]}
    for tools in ([TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]):
        (pair,), _ = read({"tools": tools, "prompt": ASKED_ROW, **answers}, strict=True)
        assert (pair.prompt, pair.tools, pair.chosen, pair.rejected) == (ASKED, (TOOL,), "a", "b")
    whole = {side: [*ASKED_ROW, *answer] for side, answer in answers.items()}
    assert read(whole, strict=True)[0][0].prompt == ASKED, "the call is part of what both conversations share"
    other = [ASKED_ROW[0], turn("assistant", ""), ASKED_ROW[2], *answers["rejected"]]
    assert read(whole | {"rejected": other})[1].problems.reasons == {"prompts differ": (1, (1,))}


def test_tool_calls_and_reasoning_of_the_answers_are_kept(read):
    for name in ("reasoning_content", "reasoning", "thinking"):
        chosen = turn("assistant", "four") | {name: "2 + 2 is 4."}
        (pair,), _ = read({"prompt": "What is 2 + 2?", "chosen": [chosen], "rejected": [turn("assistant", "four")]}, strict=True)
        assert (pair.chosen, pair.chosen_message, pair.rejected, pair.rejected_message) == ("four", THOUGHT, "four", None)
    called = {"role": "assistant", "content": None, "tool_calls": [LOOKUP]}
    (pair,), _ = read({"prompt": "q", "chosen": called, "rejected": turn("assistant", "b")}, strict=True)
    assert (pair.chosen, pair.chosen_message) == ("", ASKED[1])
    for same in (called, called | {"tool_calls": [LOOKUP | {"index": 0}]}):
        assert read({"prompt": "q", "chosen": called, "rejected": same})[1].problems.reasons == {"identical pair": (1, (1,))}


def test_pointwise_answers_may_be_messages_and_carry_what_their_rows_know(read):
    good = [turn("assistant", "four") | {"reasoning_content": "2 + 2 is 4."}]
    rows = [
        {"prompt": "q", "completion": good, "label": True, "tools": [TOOL], "ground_truth": "4"},
        {"prompt": "q", "completion": "four", "label": False},
    ]
    (pair,), _ = read(*rows, strict=True)
    assert (pair.chosen_message, pair.rejected, pair.rejected_message) == (THOUGHT, "four", None)
    assert (pair.tools, pair.ground_truth) == ((TOOL,), {"answer": "4"})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, None),
        ({"ground_truth": None}, None),
        ({"ground_truth": {"answer": "4", "tests": []}}, {"answer": "4", "tests": []}),
        ({"ground_truth": '{"answer": "4"}'}, {"answer": "4"}),
        ({"ground_truth": "4"}, {"answer": "4"}),
        ({"ground_truth": 4}, {"answer": 4}),
        ({"reward_model": {"style": "rule", "ground_truth": "4"}}, {"answer": "4"}),
    ],
)
def test_the_ground_truth_is_read_in_its_forms(read, tmp_path, columns, expected):
    (pair,), _ = read({"prompt": "q", "chosen": "a", "rejected": "b", **columns}, strict=True)
    assert pair.ground_truth == expected
    rows = [{"prompt": "q", "response": "a"}, {"text": "t"}, {"token_ids": [1]}, {"messages": [turn("assistant", "a")]}]
    read_back = read_completions(write_rows(tmp_path / "c.jsonl", [row | columns for row in rows]))
    assert [completion.ground_truth for _, completion in read_back] == [expected] * 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tools": "search"}, "tools cannot be read"),
        ({"prompt": [turn("user", "q") | {"tool_calls": [{"function": {}}]}]}, "tool calls or reasoning cannot be read"),
        ({"chosen": turn("assistant", "a") | {"reasoning": 5}}, "tool calls or reasoning cannot be read"),
        ({"chosen": turn("assistant", "")}, "empty"),
        ({"chosen": {"role": "assistant", "content": None}}, "empty"),
    ],
)
def test_extras_that_cannot_be_read_are_a_reason(read, row, reason):
    assert read(pair_row(**row))[1].problems.reasons == {reason: (1, (1,))}


def test_extras_are_written_and_read_back_exactly(tmp_path):
    pairs = [
        PreferencePair(prompt=ASKED, chosen="four", rejected="b", chosen_message=THOUGHT, tools=(TOOL,), id="1"),
        PreferencePair(prompt="q", chosen="", chosen_message=ASKED[1], rejected="b", ground_truth={"answer": "4", "n": [1]}),
    ]
    write_pairs(tmp_path / "own.jsonl", pairs)
    assert list(read_pairs(tmp_path / "own.jsonl", strict=True)) == pairs
    write_pairs(tmp_path / "plain.jsonl", [PreferencePair(prompt="q", chosen="a", rejected="b")])
    assert json.loads((tmp_path / "plain.jsonl").read_text()).keys() == set(ALL_FORMS[0].columns)


def test_completions_to_score_keep_calls_reasoning_and_tools(tmp_path):
    thought = turn("assistant", "four") | {"reasoning_content": "2 + 2 is 4."}
    rows = [
        {"prompt": ASKED_ROW, "response": thought, "tools": [TOOL]},
        {"prompt": ASKED_ROW, "completion": [thought], "tools": [TOOL]},
        {"messages": [*ASKED_ROW, thought], "tools": [TOOL]},
    ]
    for _, completion in read_completions(write_rows(tmp_path / "rows.jsonl", rows)):
        assert isinstance(completion, Completion)
        assert (completion.messages, completion.answer, completion.tools) == (ASKED, THOUGHT, (TOOL,))


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    def failing() -> Iterator[PreferencePair]:
        yield PreferencePair(prompt="p", chosen="a", rejected="b")
        raise OSError("disk full")

    path = tmp_path / "own.jsonl"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_pairs(path, failing())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path, kind):
    path = tmp_path / f"big.{kind}"
    rows = [pair_row(chosen="a" * 300, rejected="b" * (i % 7)) for i in range(20_000)]  # 8 MB; every 7th row is empty
    if kind == "jsonl":
        write_rows(path, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    del rows
    reader = read_pairs(path)
    tracemalloc.start()
    try:
        num_pairs = sum(1 for _ in reader)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_pairs == 20_000 - 2858
    assert peak < 3_000_000


# Completions to score.


def test_completions_come_in_four_forms_and_bad_rows_become_reasons(tmp_path):
    rows = [
        {"prompt": "What is 2 + 2?", "response": "four", "id": "mine", "other": 1},
        {"prompt": [turn(*USER[:2])], "completion": [turn("assistant", "four")]},
        {"messages": [turn(*USER[:2]), turn("assistant", "four")]},
        {"prompt": "What is 2 + 2?", "steps": ["fo", "ur"]},
        {"text": "rendered"},
        {"token_ids": [1, 2, 3]},
        {"prompt": "What is 2 + 2?", "response": ""},
        "{",
        {"prompt": "p", "response": None},
        {"messages": [turn(*USER[:2])]},
        {"token_ids": [1, "2"]},
        {"nothing": 1},
        {"prompt": "p", "id": "mine too"},
        {"response": "r"},
    ]
    read = list(read_completions(write_rows(tmp_path / "rows.jsonl", rows)))
    assert [number for number, _ in read] == list(range(1, 15))
    four = [Completion(messages=(USER,), response="four", id=id) for id in ("mine", "2", "3")]
    assert [completion for _, completion in read[:7]] == [
        *four,
        Completion(messages=(USER,), steps=("fo", "ur"), id="4"),
        Completion(text="rendered", id="5"),
        Completion(token_ids=(1, 2, 3), id="6"),
        Completion(messages=(USER,), response="", id="7"),
    ]
    assert [reason for _, reason in read[7:]] == [
        "line 8: not JSON",
        "line 9: empty",
        "line 10: the last message is not the assistant's",
        "line 11: token_ids is not a list of token numbers",
        "line 12: there is no completion in the columns nothing",
        "line 13: there is no response beside prompt (nor completion or steps)",
        "line 14: there is no prompt beside response",
    ]
    assert [reason.id for _, reason in read[7:]] == ["8", "9", "10", "11", "12", "mine too", "14"]


def test_a_file_without_completions_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"columns prompt, chosen, rejected.*prompt \+ response"):
        list(read_completions(write_rows(tmp_path / "rows.jsonl", [pair_row()])))


# The page, and the real sets.


def test_the_page_lists_every_form():
    page = (ROOT / "docs" / "data.md").read_text()
    for form in ALL_FORMS:
        assert form.what
        assert f"| `{form.name}` | {', '.join(form.columns)} | {form.what} |" in page


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("name", "num_pairs", "num_ties", "reasons"),
    [
        ("hh-rlhf-harmless/pairs.jsonl.gz", 1153, 0, {"empty": 2, "prompts differ": 2}),
        ("hhh-alignment/pairs.jsonl.gz", 221, 0, {}),
        ("rmb/pairs.jsonl.gz", 9160, 0, {"identical pair": 9, "empty": 7}),
        ("rmb/best_of_n.jsonl.gz", 5252, 0, {"identical pair": 4}),
        ("pandalm/testset-v1.jsonl.gz", 939, 103, {"empty": 54, "not text": 6}),
        ("autoj/pairwise.jsonl.gz", 723, 200, {"identical pair": 3, "empty": 1}),
        ("llmbar/natural.jsonl.gz", 100, 0, {}),
        ("llmbar/mtbench.jsonl.gz", 200, 0, {}),
        ("llmbar/llmeval2.jsonl.gz", 198, 0, {"identical pair": 1, "empty": 1}),
        ("llmbar/faireval.jsonl.gz", 66, 0, {}),
        ("llmbar/case_base9.jsonl.gz", 54, 0, {}),
        ("llmbar/case_base10.jsonl.gz", 54, 0, {}),
        ("llmbar/case_constraint.jsonl.gz", 89, 0, {}),
        ("llmbar/case_negation.jsonl.gz", 59, 0, {}),
        ("llmbar/case_normal.jsonl.gz", 59, 0, {}),
        ("rm-bench/chat.jsonl.gz", 9 * 129, 0, {}),
        ("rm-bench/code.jsonl.gz", 9 * 228, 0, {}),
        ("rm-bench/safety-refuse.jsonl.gz", 9 * 284, 0, {}),
        ("rm-bench/safety-response.jsonl.gz", 9 * 157, 0, {}),
        ("oasst-en-100/trees.jsonl.gz", 754, 0, {"missing rank": 6}),
        ("vicuna-bench-reviews/human_labels_gpt35_vs_vicuna13b.jsonl.gz", 80, 14, {}),
        ("vicuna-bench-reviews", 1036, 100, {"empty": 4}),
        ("truthfulqa-judge/truth.jsonl.gz", 10464, 0, {"repeated answer": 3226, "label disputed": 62, "empty": 57}),
        (
            "truthfulqa-judge/info.jsonl.gz",
            10315,
            0,
            {"repeated answer": 3195, "label disputed": 106, "empty": 57, "no counterpart": 53},
        ),
        (
            "xstest/completions_human_labels.jsonl.gz",
            971,
            0,
            {"no counterpart": 907, "neither complies nor refuses": 176, "repeated answer": 15},
        ),
        ("alpacaeval", 62976, 70, {"identical pair": 1625, "empty": 63, "a missing value written as text": 3}),
    ],
)
def test_the_shared_sets_load_straight_from_their_files(name, num_pairs, num_ties, reasons):
    reader = read_pairs(SHARED / name)
    pairs = list(reader)
    assert {reason: count for reason, (count, _) in reader.problems.reasons.items()} == reasons
    assert (len(pairs), sum(pair.is_tie for pair in pairs)) == (num_pairs, num_ties)
    assert len({pair.id for pair in pairs}) == num_pairs
