"""Suites from files and from hub data sets in the schemas in which they are published, with texts made up for the purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.errors import DataError
from assay.evaluation.suites.catalog import SUITES
from assay.evaluation.suites.lookup import LoadedSuite, load_suite
from assay.messages import as_messages

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_hub(folder: Path, name: str, split: str, rows: Rows) -> None:
    """A data set as the hub lays it out; `datasets` takes a directory of that name for it."""
    path = folder / name / "data" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty working directory, in which a hub id names a directory; nothing is fetched, nothing is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def shown(loaded: LoadedSuite) -> list[tuple[Any, ...]]:
    return [(case.section, case.candidates, case.gold) for case in loaded.cases]


REWARD_BENCH = [
    {"prompt": "2+2?", "chosen": "4", "chosen_model": "a", "rejected": "5", "rejected_model": "b", "subset": "math-prm", "id": 7},
    {
        "prompt": "Hi",
        "chosen": "Hello",
        "chosen_model": "a",
        "rejected": "",
        "rejected_model": "b",
        "subset": "mt-bench-easy",
        "id": 8,
    },
]


def reward_bench_2(id: str, chosen: list[str], rejected: list[str], subset: str) -> dict[str, Any]:
    counts = {"num_correct": len(chosen), "num_incorrect": len(rejected), "total_completions": len(chosen) + len(rejected)}
    return {
        "id": id,
        "prompt": f"Question {id}",
        "chosen": chosen,
        "rejected": rejected,
        "subset": subset,
        "models": ["m"],
        **counts,
    }


def test_reward_bench_from_the_hub(hub):
    write_hub(hub, "allenai/reward-bench", "filtered", REWARD_BENCH)
    loaded = load_suite("rewardbench")
    assert shown(loaded) == [("math-prm", ("4", "5"), (1, 0)), ("mt-bench-easy", ("Hello", ""), (1, 0))]
    assert loaded.cases[0].id == "7"
    assert loaded.source == "allenai/reward-bench#filtered"
    assert not loaded.set_aside


def test_reward_bench_2_from_the_hub_has_the_right_answers_first_and_one_cluster_for_a_question_of_the_ties(hub):
    rows = [
        reward_bench_2("12", ["yes"], ["no", "nay", "never"], "Math"),
        reward_bench_2("ref:3", ["red"], ["loud"], "Ties"),
        reward_bench_2("tied:3", ["red", "blue"], ["loud"], "Ties"),
    ]
    write_hub(hub, "allenai/reward-bench-2", "test", rows)
    loaded = load_suite("rewardbench2")
    assert [case.gold for case in loaded.cases] == [(1, 0, 0, 0), (1, 0), (1, 1, 0)]
    assert loaded.cases[1].cluster == loaded.cases[2].cluster != loaded.cases[0].cluster


def test_rm_bench_from_the_hub_joins_the_two_safety_parts(hub):
    rows = [
        {"id": str(i), "prompt": f"p{i}", "chosen": ["a", "b", "c"], "rejected": ["x", "y", "z"], "domain": domain}
        for i, domain in enumerate(("chat", "math", "safety-refuse", "safety-response"))
    ]
    write_hub(hub, "THU-KEG/RM-Bench", "train", [*rows, {**rows[0], "rejected": ["x", "y"]}])
    loaded = load_suite("rm-bench")
    assert [case.section for case in loaded.cases] == ["chat", "math", "safety", "safety"]
    assert loaded.cases[0].gold == (1, 1, 1, 0, 0, 0)
    assert loaded.set_aside == {"not three chosen and three rejected answers": 1}


def test_judge_bench_from_the_hub(hub):
    row = {"pair_id": "u1", "original_id": "9", "source": "mmlu-pro-law", "question": "q", "response_model": "gpt-4o"}
    rows = [row | {"response_A": "one", "response_B": "two", "label": "B>A"}]
    rows.append(row | {"source": "livecodebench", "response_A": "one", "response_B": "two", "label": "A>B"})
    write_hub(hub, "ScalerLab/JudgeBench", "gpt", rows)
    assert shown(load_suite("judgebench")) == [("knowledge", ("one", "two"), (0, 1)), ("coding", ("one", "two"), (1, 0))]


def test_ppe_preference_from_the_hub_keeps_ties_as_ties(hub):
    row = {
        "question_id": "q1",
        "model_a": "m",
        "model_b": "n",
        "prompt": "p",
        "response_1": "a",
        "response_2": "b",
        "language": "English",
    }
    rows = [row | {"winner": winner} for winner in ("model_a", "model_b", "tie", "tie (bothbad)", "nobody")]
    write_hub(hub, "lmarena-ai/PPE-Human-Preference-V1", "test", rows)
    loaded = load_suite("ppe-preference")
    assert [case.gold for case in loaded.cases] == [(1, 0), (0, 1), (0.5, 0.5), (0.5, 0.5)]
    assert loaded.set_aside == {"unknown label 'nobody'": 1}


def test_ppe_correctness_from_the_hub_compares_the_pairs_that_were_drawn(hub):
    row = {
        "question_id": "q",
        "prompt": "p",
        "model_name": "m",
        "scores": [True, False, True],
        "sampled_conflict_pairs": [[0, 1], [1, 2]],
    }
    row |= {f"response_{i}": f"answer {i}" for i in (1, 2, 3)}
    for name in ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus"):
        write_hub(hub, f"lmarena-ai/PPE-{name}-Best-of-K", "train", [row])
    loaded = load_suite("ppe-correctness")
    assert [case.section for case in loaded.cases] == ["MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus"]
    assert loaded.cases[0].gold == (1, 0, 1)
    assert loaded.cases[0].pairs == ((0, 1), (1, 2))


def test_pairs_of_answers_that_are_not_there_set_the_row_aside(tmp_path):
    row = {"question_id": "q", "prompt": "p", "response_1": "a", "response_2": "b", "model_name": "m"}
    bad = [({"scores": [1.0, 0.0]}, [[0, 2]]), ({"scores": [1.0, 0.0]}, [[0]]), ({"scores": [1, None]}, [[0, 1]])]
    rows = [row | scores | {"sampled_conflict_pairs": drawn} for scores, drawn in (*bad, ({"scores": [1.0, 0.0]}, [[1, 0]]))]
    write(tmp_path / "ppe" / "math.jsonl", rows)
    loaded = load_suite("ppe-correctness", tmp_path)
    assert shown(loaded) == [("MATH", ("a", "b"), (1, 0))]
    assert loaded.set_aside == {"sampled_conflict_pairs are not two numbers of answers": 2, "unknown label 'None'": 1}


def test_files_of_the_data_folder_come_before_the_hub_and_what_is_missing_is_named(tmp_path):
    write(tmp_path / "rm-bench" / "chat.jsonl", [{"id": 1, "prompt": "p", "chosen": ["a", "b", "c"], "rejected": ["x", "y", "z"]}])
    loaded = load_suite("rm-bench", tmp_path)
    assert loaded.cases[0].section == "chat"
    assert loaded.missing == ("math", "code", "safety-refuse", "safety-response")
    assert loaded.source.startswith("1 of 5 files")


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write(tmp_path / "rewardbench" / "filtered.jsonl", REWARD_BENCH)
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    assert len(load_suite("rewardbench").cases) == 2


def test_rmb_has_pairs_and_lists_by_goal(tmp_path):
    talk = [{"role": "user", "content": "q", "language": "English"}]
    pair = {"pair_uid": "1", "conversation_input": talk, "category_path": "Pairwise_set/Helpfulness/Code/Debugging"}
    pair |= {"chosen": {"llm_name": "m", "answer": "good"}, "reject": {"llm_name": "n", "answer": "bad"}}
    lists = {"bon_uid": "2", "conversation_input": talk, "category_path": "BoN_set/Harmlessness/S1", "bon_best": {"answer": "good"}}
    lists |= {"loser_list": [{"answer": "bad"}, {"answer": "worse"}]}
    write(tmp_path / "rmb" / "pairs.jsonl", [pair])
    write(tmp_path / "rmb" / "best_of_n.jsonl", [lists])
    loaded = load_suite("rmb", tmp_path)
    assert shown(loaded) == [
        ("pairs: helpfulness", ("good", "bad"), (1, 0)),
        ("best of n: harmlessness", ("good", "bad", "worse"), (1, 0, 0)),
    ]
    assert loaded.cases[0].prompt == as_messages("q")
    assert loaded.cases[0].subset == "pairs: Helpfulness / Code"


def test_judged_answers_become_one_case_a_prompt(tmp_path):
    """XSTest: to comply is right on safe prompts, to refuse on the contrasts; a partial refusal is neither."""
    row = {"model": "m", "id": "v2-1", "annotation_1": "", "annotation_2": ""}
    rows = [
        row | {"type": "homonyms", "prompt": "safe", "completion": "Sure", "final_label": "1_full_compliance"},
        row | {"type": "homonyms", "prompt": "safe", "completion": "No", "final_label": "2_full_refusal"},
        row | {"type": "homonyms", "prompt": "safe", "completion": "Hm", "final_label": "3_partial_refusal"},
        row | {"type": "contrast_homonyms", "prompt": "unsafe", "completion": "Sure", "final_label": "1_full_compliance"},
        row | {"type": "contrast_homonyms", "prompt": "unsafe", "completion": "No", "final_label": "2_full_refusal"},
        row | {"type": "homonyms", "prompt": "lonely", "completion": "Sure", "final_label": "1_full_compliance"},
    ]
    write(tmp_path / "xstest" / "completions_human_labels.jsonl", rows)
    loaded = load_suite("xstest", tmp_path)
    assert shown(loaded) == [("safe prompts", ("Sure", "No"), (1, 0)), ("unsafe prompts", ("Sure", "No"), (0, 1))]
    assert loaded.set_aside == {"unknown label '3_partial_refusal'": 1, "prompt without both kinds of answer": 1}


def test_an_answer_that_is_judged_both_ways_is_set_aside(tmp_path):
    rows = [("q", "yes", True), ("q", "yes", False), ("q", "no", False), ("q", "maybe", True), ("q", "no", False)]
    rows = [{"question": q, "answer": a, "truthful": t} for q, a, t in rows]
    write(tmp_path / "truthfulqa-judge" / "truth.jsonl", rows)
    loaded = load_suite("truthfulqa", tmp_path)
    assert shown(loaded) == [("truth", ("no", "maybe"), (0, 1))]
    assert loaded.set_aside == {"label disputed": 1}


def test_alpaca_eval_compares_every_model_with_the_reference(tmp_path):
    folder = tmp_path / "alpacaeval"
    write(folder / "prompts.jsonl", [{"prompt_id": 3, "instruction": "Do it", "dataset": "koala"}])
    write(folder / "outputs.jsonl", [{"model": m, "prompt_id": 3, "output": f"by {m}"} for m in ("ref", "a", "b")])
    labels = [
        {"judge": "alpaca_eval_gpt4", "model": m, "reference": "ref", "prompt_id": 3, "p_model": p}
        for m, p in (("a", 1.0), ("b", 0.2))
    ]
    write(folder / "preferences.jsonl", [*labels, {**labels[0], "model": "gone"}])
    loaded = load_suite("alpacaeval", tmp_path)
    assert shown(loaded) == [("GPT-4, hard labels (v1)", ("by ref", "by a", "by b"), (0.5, 1.0, 0.2))]
    assert loaded.cases[0].pairs == ((0, 1), (0, 2))
    assert loaded.set_aside == {"text missing in prompts or outputs": 1}
    (folder / "outputs.jsonl").unlink()
    with pytest.raises(DataError, match="'outputs', which it cannot do without"):
        load_suite("alpacaeval", tmp_path)


def test_labels_with_ties_are_read_as_ties(tmp_path):
    row = {"scenario": "code", "prompt": "p", "response 1": "a", "response 2": "b"}
    write(tmp_path / "autoj" / "pairwise.jsonl", [row | {"label": label} for label in (0, 1, 2)])
    loaded = load_suite("autoj", tmp_path)
    assert [(case.candidates, case.gold) for case in loaded.cases] == [(("a", "b"), gold) for gold in ((1, 0), (0, 1), (0.5, 0.5))]
    assert {case.subset for case in loaded.cases} == {"code"}


def test_pandalm_takes_the_majority_and_reads_true_as_the_word(tmp_path):
    row = {"idx": 7, "instruction": "Verify", "input": "1 + 1 = 2", "response1": True, "response2": ""}
    votes = [(1, 1, 0), (2, 0, 2), (0, 0, 0), (0, 1, 2)]
    write(tmp_path / "pandalm" / "testset-v1.jsonl", [row | {f"annotator{k + 1}": v[k] for k in range(3)} for v in votes])
    loaded = load_suite("pandalm", tmp_path)
    assert [case.gold for case in loaded.cases] == [(1, 0), (0, 1), (0.5, 0.5)]
    assert [case.subset for case in loaded.cases] == ["2 of 3 agree", "2 of 3 agree", "3 of 3 agree"]
    assert loaded.cases[0].candidates == ("True", "")
    assert loaded.cases[0].prompt == as_messages("Verify\n\n1 + 1 = 2")
    assert loaded.set_aside == {"no majority": 1}


def test_hhh_in_both_of_its_schemas(tmp_path):
    rows = [{"id": 4, "subset": "honest", "prompt": "p", "chosen": "a", "rejected": "b"}]
    rows.append({"input": "p", "targets": {"choices": ["x", "y"], "labels": [0, 1]}})
    write(tmp_path / "hhh-alignment" / "pairs.jsonl", rows)
    assert shown(load_suite("hhh", tmp_path)) == [("honest", ("a", "b"), (1, 0)), ("pairs", ("y", "x"), (1, 0))]


# Files of one's own.


def test_a_file_of_pairs_is_a_suite(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "subset": "x"}, {"prompt": "p", "chosen": "a", "rejected": "a"}]
    loaded = load_suite(str(write(tmp_path / "mine.jsonl", rows)))
    assert loaded.suite.name == "mine"
    assert [(c.section, c.subset, c.gold) for c in loaded.cases] == [("pairs", "x", (1, 0))]
    assert loaded.set_aside == {"identical pair": 1}


def test_a_file_of_lists_is_a_suite_with_flags_or_with_the_number_of_the_right_one(tmp_path):
    rows: Rows = [
        {"prompt": "p", "candidates": ["a", "b", "c"], "correct": [False, True, True]},
        {"prompt": "p", "candidates": ["a", "b", "c"], "correct": 2},
        {"prompt": "p", "candidates": ["a", "b"], "correct": [0, 0]},
        {"prompt": "p", "candidates": ["a", "b"], "correct": 5},
        {"prompt": "p", "candidates": ["a", "b"], "correct": [1]},
    ]
    loaded = load_suite(str(write(tmp_path / "lists.jsonl", rows)))
    assert [case.gold for case in loaded.cases] == [(0, 1, 1), (0, 0, 1)]
    assert sum(loaded.set_aside.values()) == 3


def test_own_files_carry_tools_ground_truth_and_answers_that_are_messages(tmp_path):
    thought = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    known = {"tools": [{"name": "f"}], "ground_truth": "a"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "q", "chosen": thought, "rejected": "b", **known}))
    (tmp_path / "lists.jsonl").write_text(json.dumps({"prompt": "q", "candidates": ["a", "b"], "correct": 0, **known}))
    for name in ("pairs", "lists"):
        (case,) = load_suite(str(tmp_path / f"{name}.jsonl")).cases
        assert (case.tools, case.ground_truth) == (({"name": "f"},), {"answer": "a"})
        assert [completion.answer.reasoning for completion in case.completions()] == ["hm" * (name == "pairs"), ""]


def test_a_limit_is_spread_over_the_suite(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "id": str(i)} for i in range(10)])
    assert [case.id for case in load_suite(str(path), limit=4).cases] == ["0", "3", "6", "9"]
    with pytest.raises(ValueError, match="limit 0 must be at least 1"):
        load_suite(str(path), limit=0)


def test_mistakes_are_named_with_their_fix(tmp_path, monkeypatch):
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    with pytest.raises(ValueError, match=r"'rewardbench3' is neither a suite nor a file: use one of rewardbench, rewardbench2"):
        load_suite("rewardbench3")
    with pytest.raises(ValueError, match=r"rmb is not anywhere: no data folder was named .* rmb/pairs.jsonl.gz"):
        load_suite("rmb")
    with pytest.raises(ValueError, match=r"read from the files rmb/pairs.jsonl.gz, rmb/best_of_n.jsonl.gz, of which there is none"):
        load_suite("rmb", tmp_path)
    write(tmp_path / "rewardbench" / "filtered.jsonl", [{"text": "no"}, {"text": "no"}])
    with pytest.raises(DataError, match=r"no row of .* is a case .*2 no column 'subset'"):
        load_suite("rewardbench", tmp_path)


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_around_it(hub, monkeypatch):
    def unreachable(*arguments, **settings):
        raise OSError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError, match=r"'allenai/reward-bench'.*no network.*rewardbench/filtered.jsonl.gz"):
        load_suite("rewardbench")


def test_llmbar_labels_name_the_better_output(tmp_path):
    row = {"id": "natural-0", "input": "p", "output_1": "a", "output_2": ""}
    write(tmp_path / "llmbar" / "natural.jsonl", [row | {"label": label} for label in (1, 2, 3)])
    loaded = load_suite("llmbar", tmp_path)
    assert shown(loaded) == [("natural", ("a", ""), (1, 0)), ("natural", ("a", ""), (0, 1))]
    assert loaded.set_aside == {"unknown label '3'": 1}


def test_suites_load_no_torch():
    script = (
        "import sys, assay.evaluation.suites.summary; print(sorted({'torch', 'transformers', 'tokenizers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_suite_can_be_found_somewhere():
    for suite in SUITES.values():
        assert suite.files, suite.name
        assert all("#" in name for name in suite.hub.values()), "the split is named"
