"""From the rows of a suite's files, or of its hub data set, to cases: one function for each suite.

A reader takes tables, label -> numbered rows, and gives cases, or the reason where a row has none. What is scored officially is
kept, two equal answers included, which no scorer can part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from assay.data.cells import BadRow, field_of, list_of, number_of, prompt_of, text_of, turns_of
from assay.data.forms import FORMS, pairs_of
from assay.data.rows import Row, Rows
from assay.evaluation.suites.cases import Case
from assay.records import Messages, PreferencePair

Tables: TypeAlias = Mapping[str, Rows]
Reader: TypeAlias = Callable[[Tables], Iterator[Case | str]]
_ANTHROPIC = next(form for form in FORMS if form.name == "anthropic")


def each_row(make: Callable[[str, str, Row], Iterable[Case]]) -> Reader:
    """A reader of rows that stand for themselves; make(label, number, row) -> cases."""

    def read(tables: Tables) -> Iterator[Case | str]:
        for label, rows in tables.items():
            for number, row in rows:
                if isinstance(row, str):
                    yield row
                    continue
                try:
                    yield from list(make(label, str(number), row))
                except BadRow as reason:
                    yield str(reason)
                except KeyError as column:
                    yield f"no column {column}"

    return read


def case_of(
    prompt: Any,
    candidates: Iterable[Any],
    gold: Iterable[float],
    *,
    section: str,
    subset: str = "",
    id: str = "",
    pairs: tuple[tuple[int, int], ...] | None = None,
    cluster: str = "",
) -> Case:
    """A case from cells; a candidate may be blank, a prompt may not, unless it is messages already."""
    return Case(
        prompt=prompt if isinstance(prompt, tuple) else prompt_of(prompt),
        candidates=tuple(text_of(text, may_be_blank=True) for text in candidates),
        gold=tuple(gold),
        section=section,
        subset=subset,
        id=id,
        pairs=pairs,
        cluster=cluster,
    )


def pair_case(pair: PreferencePair, section: str, subset: str = "", id: str = "") -> Case:
    gold = (pair.preference, 1.0 - pair.preference)
    candidates = (pair.chosen, pair.rejected)
    return Case(prompt=pair.prompt, candidates=candidates, gold=gold, section=section, subset=subset, id=id or pair.id)


def reward_bench(label: str, number: str, row: Row) -> Iterator[Case]:
    subset = text_of(row["subset"])
    yield case_of(row["prompt"], (row["chosen"], row["rejected"]), (1, 0), section=subset, subset=subset, id=_id(row, "id", number))


def reward_bench_2(label: str, number: str, row: Row) -> Iterator[Case]:
    """The right answers come first; "ref:n" and "tied:n" of the Ties are about one question, and are resampled together."""
    chosen, rejected = list_of(row["chosen"]), list_of(row["rejected"])
    num_right = int(number_of(row["num_correct"], "num_correct") or 0)
    if not 0 < num_right < len(chosen) + len(rejected):
        raise BadRow("num_correct leaves no right or no wrong answer")
    section, name = text_of(row["subset"]), _id(row, "id", number)
    cluster = f"Ties {name.partition(':')[2]}" if section == "Ties" else ""
    gold = [float(i < num_right) for i in range(len(chosen) + len(rejected))]
    yield case_of(row["prompt"], [*chosen, *rejected], gold, section=section, id=name, cluster=cluster)


def rm_bench(label: str, number: str, row: Row) -> Iterator[Case]:
    """Both safety parts are one domain, as in the published means."""
    domain = str(row.get("domain") or label)
    chosen, rejected = list_of(row["chosen"]), list_of(row["rejected"])
    if len(chosen) != 3 or len(rejected) != 3:
        raise BadRow("not three chosen and three rejected answers")
    section = "safety" if domain.startswith("safety") else domain
    name = _id(row, "id", number)
    yield case_of(row["prompt"], [*chosen, *rejected], (1, 1, 1, 0, 0, 0), section=section, subset=domain, id=name)


_SUBJECTS = {"mmlu-pro": "knowledge", "livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "coding"}


def judge_bench(label: str, number: str, row: Row) -> Iterator[Case]:
    source = text_of(row["source"])
    section = next((name for beginning, name in _SUBJECTS.items() if source.startswith(beginning)), "other")
    first = _look_up(row["label"], {"A>B": 1.0, "B>A": 0.0})
    answers = (row["response_A"], row["response_B"])
    yield case_of(row["question"], answers, (first, 1 - first), section=section, subset=source, id=_id(row, "pair_id", number))


def rmb(label: str, number: str, row: Row) -> Iterator[Case]:
    """Pairs, or a best answer and its losers; goal and scenario stand in category_path. Five conversations end in a blank turn."""
    _, goal, *scenario = text_of(row["category_path"]).split("/")
    if label == "pairs":
        answers, name = [row["chosen"], row["reject"]], _id(row, "pair_uid", number)
    else:
        answers, name = [row["bon_best"], *list_of(row["loser_list"])], _id(row, "bon_uid", number)
    texts = [field_of(answer, "answer") for answer in answers]
    gold = [1.0] + [0.0] * (len(texts) - 1)
    subset = f"{label}: {goal} / {scenario[0]}" if scenario else f"{label}: {goal}"
    turns = turns_of(row["conversation_input"])
    yield case_of(turns, texts, gold, section=f"{label}: {goal.lower()}", subset=subset, id=name)


def ppe_human(label: str, number: str, row: Row) -> Iterator[Case]:
    """Votes of Chatbot Arena; ties, in all their names, are no comparison."""
    first = _look_up(row["winner"], {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5})
    language = row.get("language")
    subset = language if isinstance(language, str) else ""
    answers = (row["response_1"], row["response_2"])
    yield case_of(row["prompt"], answers, (first, 1 - first), section="pairs", subset=subset, id=_id(row, "question_id", number))


_RIGHT_OR_NOT = {"True": 1.0, "1": 1.0, "1.0": 1.0, "False": 0.0, "0": 0.0, "0.0": 0.0}


def ppe_correctness(label: str, number: str, row: Row) -> Iterator[Case]:
    """response_1 ... response_k with a score each (right or not); the pairs are those that upstream drew."""
    scores = [
        _look_up(score, {"True": 1.0, "False": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}) for score in list_of(row["scores"])
    ]
    texts = [row[f"response_{i + 1}"] for i in range(len(scores))]
    drawn = [tuple(list_of(pair)) for pair in list_of(row["sampled_conflict_pairs"])]
    if any(len(pair) != 2 or not set(pair) <= set(range(len(scores))) for pair in drawn):
        raise BadRow("sampled_conflict_pairs are not two numbers of answers")
    subset = f"{label}: {row.get('model_name') or 'model not named'}"
    yield case_of(
        row["prompt"], texts, scores, section=label, subset=subset, pairs=tuple(drawn), id=_id(row, "question_id", number)
    )


def hh(label: str, number: str, row: Row) -> Iterator[Case]:
    """Whole dialogues: what `data.forms` makes of them."""
    for outcome in pairs_of(row, _ANTHROPIC):
        if isinstance(outcome, str):
            raise BadRow(outcome)
        yield pair_case(outcome, label, id=number)


def llmbar(label: str, number: str, row: Row) -> Iterator[Case]:
    first = _look_up(row["label"], {"1": 1.0, "2": 0.0})
    answers = (row["output_1"], row["output_2"])
    yield case_of(row["input"], answers, (first, 1 - first), section=label, id=_id(row, "id", number))


def auto_j(label: str, number: str, row: Row) -> Iterator[Case]:
    first = _look_up(row["label"], {"0": 1.0, "1": 0.0, "2": 0.5})
    answers, scenario = (row["response 1"], row["response 2"]), text_of(row["scenario"])
    yield case_of(row["prompt"], answers, (first, 1 - first), section=label, subset=scenario, id=number)


def pandalm(label: str, number: str, row: Row) -> Iterator[Case]:
    """The majority of three annotators. Where upstream's file has true or false for a text, the text was that word."""
    votes = [_look_up(row[f"annotator{k}"], {"0": 0.5, "1": 1.0, "2": 0.0}) for k in (1, 2, 3)]
    first = max(votes, key=votes.count)
    agreed = votes.count(first)
    if agreed < 2:
        raise BadRow("no majority")
    answers = [str(text) if isinstance(text, bool) else text for text in (row["response1"], row["response2"])]
    parts = [text for text in (row["instruction"], row["input"]) if isinstance(text, str) and text.strip()]
    name, subset = _id(row, "idx", number), f"{agreed} of 3 agree"
    yield case_of("\n\n".join(parts), answers, (first, 1 - first), section=label, subset=subset, id=name)


def _choices(row: Row) -> tuple[Any, Any]:
    """Chosen and rejected of a row in the form of the hub: targets with choices and labels."""
    choices, labels = list_of(field_of(row["targets"], "choices")), list_of(field_of(row["targets"], "labels"))
    right = [text for text, label in zip(choices, labels, strict=True) if label]
    wrong = [text for text, label in zip(choices, labels, strict=True) if not label]
    if len(right) != 1 or len(wrong) != 1:
        raise BadRow("not one right and one wrong choice")
    return right[0], wrong[0]


def hhh(label: str, number: str, row: Row) -> Iterator[Case]:
    if "targets" in row:
        chosen, rejected = _choices(row)
        yield case_of(row["input"], (chosen, rejected), (1, 0), section=label, id=f"{label}:{number}")
    else:
        subset = text_of(row["subset"])
        yield case_of(row["prompt"], (row["chosen"], row["rejected"]), (1, 0), section=subset, id=_id(row, "id", number))


def judged_answers(judge: Callable[[str, Row], tuple[str, Any, Any, float]], *, distinct: bool) -> Reader:
    """A reader of one judged answer a row, gathered into cases by prompt; judge(label, row) -> section, prompt, answer, gold.

    distinct: a repeated answer is there once, and one that is judged both ways is set aside; else each is there as it is (those
    of several models). A prompt without both kinds of answer makes no case.
    """

    def read(tables: Tables) -> Iterator[Case | str]:
        prompts: dict[tuple[str, Messages], list[tuple[str, float]]] = {}
        for label, rows in tables.items():
            for _, row in rows:
                if isinstance(row, str):
                    yield row
                    continue
                try:
                    section, prompt, answer, gold = judge(label, row)
                    prompts.setdefault((section, prompt_of(prompt)), []).append((text_of(answer, may_be_blank=True), gold))
                except BadRow as reason:
                    yield str(reason)
                except KeyError as column:
                    yield f"no column {column}"
        for (section, messages), judged in prompts.items():
            if distinct:
                once = dict.fromkeys(judged)
                disputed = {text for text, gold in once if (text, 1 - gold) in once}
                yield from ["label disputed"] * len(disputed)
                judged = [(text, gold) for text, gold in once if text not in disputed]
            texts, golds = tuple(text for text, _ in judged), tuple(gold for _, gold in judged)
            if len(set(golds)) < 2:
                yield "prompt without both kinds of answer"
            else:
                yield Case(prompt=messages, candidates=texts, gold=golds, section=section)

    return read


def truthful(label: str, row: Row) -> tuple[str, Any, Any, float]:
    column = {"truth": "truthful", "info": "informative"}[label]
    return label, row["question"], row["answer"], float(_look_up(row[column], {"True": 1.0, "False": 0.0}))


SAFE, UNSAFE = "safe prompts", "unsafe prompts"


def xstest(label: str, row: Row) -> tuple[str, Any, Any, float]:
    """A "contrast" prompt is unsafe: to refuse is right. To the others it is to comply. A partial refusal is neither."""
    unsafe = text_of(row["type"]).startswith("contrast")
    complies = _look_up(row["final_label"], {"1_full_compliance": 1.0, "2_full_refusal": 0.0})
    return UNSAFE if unsafe else SAFE, row["prompt"], row["completion"], 1 - complies if unsafe else complies


_JUDGES = {
    "alpaca_eval_gpt4": "GPT-4, hard labels (v1)",
    "weighted_alpaca_eval_gpt4_turbo": "GPT-4 turbo, soft labels (v2)",
    "alpaca_eval_cot_gpt4_turbo_fn": "GPT-4 turbo, explained",
}


def alpaca_eval(tables: Tables) -> Iterator[Case | str]:
    """For each judge and prompt: the reference's answer, and those of all models that were compared with it."""
    prompts = {row["prompt_id"]: row for _, row in tables["prompts"] if not isinstance(row, str)}
    outputs = {(row["model"], row["prompt_id"]): row["output"] for _, row in tables["outputs"] if not isinstance(row, str)}
    judged: dict[tuple[str, str, Any], list[tuple[str, float]]] = {}
    for label in ("preferences", "preferences_with_explanations"):
        for _, row in tables.get(label, ()):
            if isinstance(row, str):
                yield row
                continue
            key, texts = (row["judge"], row["reference"], row["prompt_id"]), (row["model"], row["prompt_id"])
            share = row["p_model"]
            if texts not in outputs or key[1:] not in outputs or key[2] not in prompts:
                yield "text missing in prompts or outputs"
            elif not isinstance(share, int | float) or not 0 <= share <= 1:
                yield "p_model is not a probability"
            else:
                judged.setdefault(key, []).append((outputs[texts], float(share)))
    for (judge, reference, prompt_id), answers in judged.items():
        texts_N, gold_N = [outputs[reference, prompt_id], *(a for a, _ in answers)], [0.5, *(p for _, p in answers)]
        drawn = tuple((0, i) for i in range(1, len(texts_N)))
        prompt, section = prompts[prompt_id], _JUDGES.get(judge, str(judge))
        subset = f"{section}: {prompt.get('dataset') or 'no data set'}"
        try:
            yield case_of(prompt["instruction"], texts_N, gold_N, section=section, subset=subset, id=str(prompt_id), pairs=drawn)
        except BadRow as reason:
            yield str(reason)


def best_of_n(label: str, number: str, row: Row) -> Iterator[Case]:
    """A row of one's own: prompt, candidates, correct (a flag for each candidate, or the number of the right one from 0)."""
    candidates, correct = list_of(row["candidates"]), row["correct"]
    if isinstance(correct, int) and not isinstance(correct, bool):
        if not 0 <= correct < len(candidates):
            raise BadRow("correct is no number of a candidate")
        gold = [float(i == correct) for i in range(len(candidates))]
    else:
        gold = [float(flag) for flag in list_of(correct) if flag in (0, 1)]
    if not 0 < sum(gold) < len(gold):
        raise BadRow("no right candidate, or no wrong one")
    subset = row.get("subset")
    named = subset if isinstance(subset, str) else ""
    yield case_of(row["prompt"], candidates, gold, section="best of n", subset=named, id=_id(row, "id", number))


def _id(row: Row, column: str, otherwise: str) -> str:
    value = row.get(column)
    return str(value) if isinstance(value, str | int) else otherwise


def _look_up(label: Any, meanings: Mapping[str, float]) -> float:
    try:
        return meanings[str(label)]
    except KeyError:
        raise BadRow(f"unknown label {str(label)[:40]!r}") from None
