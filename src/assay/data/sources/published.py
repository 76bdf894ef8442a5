"""Public sets whose numbers, prompts or nesting are of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from assay.data.cases import Case, Label, case_of, of_ranking, of_two
from assay.data.raw.cells import BadRow, UnknownLabel, field_of, list_of, number_of, text_of, tools_of, turns_of
from assay.data.raw.columns import RowView
from assay.data.raw.embedded import parsed_text
from assay.data.raw.rows import Row
from assay.data.sources.forms import Form, named_form, row_form
from assay.data.sources.prompts import asked, has_prompt
from assay.data.sources.two_answers import Sides, voted, whole_prompt
from assay.messages import Message, Messages


def openai_preference(row: Row) -> Case:
    """OpenAI's preference fine-tuning: input with messages and tools, preferred_output, non_preferred_output."""
    given = row["input"]
    prompt = turns_of(given["messages"]) if isinstance(given, Mapping) and "messages" in given else given
    case = of_two(prompt, row["preferred_output"], row["non_preferred_output"], 1.0)
    return replace(case, tools=tools_of(given)) if isinstance(given, Mapping) else case


def stanford_preferences(row: Row) -> Case:
    """SHP: two replies to a post, labels 1 where the first is preferred."""
    wins = {"1": 1.0, "0": 0.0}.get(str(row["labels"]))
    if wins is None:
        raise UnknownLabel(row["labels"])
    return of_two(row["history"], row["human_ref_A"], row["human_ref_B"], wins)


def webgpt(row: Row) -> Case:
    """WebGPT comparisons: scores of two answers, equal is a tie; the margin is their difference."""
    question = row["question"]
    prompt = question.get("full_text") if isinstance(question, Mapping) else question
    first, second = number_of(row["score_0"], "score"), number_of(row["score_1"], "score")
    if first is None or second is None:
        raise BadRow("missing score")
    first_wins = 0.5 * (1 + (first > second) - (first < second))
    return of_two(prompt, row["answer_0"], row["answer_1"], first_wins, margin=abs(first - second))


def summaries(row: Row) -> Case:
    """OpenAI's summarize_from_feedback, comparisons: a post, two summaries, choice 0 or 1."""
    texts = [field_of(summary, "text") for summary in list_of(row["summaries"])]
    choice = number_of(row["choice"], "choice")
    if len(texts) != 2 or choice not in (0.0, 1.0):
        raise UnknownLabel(row["choice"])
    return of_two(_post(row["info"]), texts[0], texts[1], 1.0 - choice)


def rated_summary(row: Row) -> Case:
    """OpenAI's summarize_from_feedback, axis: one summary with ratings; overall is the gold, the others are attributes."""
    summary = row["summary"]
    axes = field_of(summary, "axes")
    numbers = {name: number_of(value, name) for name, value in axes.items()} if isinstance(axes, Mapping) else {}
    overall = numbers.pop("overall", None)
    if overall is None:
        raise BadRow("missing score")
    case = case_of(_post(row["info"]), [field_of(summary, "text")], [overall])
    return replace(case, is_scored=True, attributes={name: (_known(value),) for name, value in numbers.items()})


def _post(info: Any) -> str:
    """The prompt as in the paper (Stiennon et al. 2020, appendix B): SUBREDDIT, TITLE, POST, TL;DR; of news the article."""
    if (post := field_of(info, "post")) is None:
        return f"Article: {text_of(field_of(info, 'article'))}\n\nTL;DR:"
    title, place = field_of(info, "title"), field_of(info, "subreddit")
    heads = [f"{name}: {text}" for name, text in (("SUBREDDIT", place and f"r/{place}"), ("TITLE", title)) if text]
    return "\n\n".join([*heads, f"POST: {text_of(post)}", "TL;DR:"])


def safe_rlhf(row: Row) -> list[Case]:
    """PKU-SafeRLHF: better and safer are two labels of the same two answers, and two sources."""
    found = []
    for column, name in (("better_response_id", "better"), ("safer_response_id", "safer")):
        number = number_of(row.get(column), column)
        if number is None:
            continue
        if number not in (0.0, 1.0):
            raise UnknownLabel(row[column])
        order = (0, 1) if number == 0.0 else (1, 0)
        safe = [row.get(f"is_response_{i}_safe") for i in order]
        tags = {"safe": " > ".join("safe" if is_safe else "unsafe" for is_safe in safe)} if None not in safe else {}
        answers = (row["response_0"], row["response_1"])
        case = case_of(row["prompt"], answers, (1.0 - number, number), pairs=[order], labels=[Label(tags=tags)])
        found.append(replace(case, id=name, source=name))
    if not found:
        raise BadRow("missing label")
    return found


def helpsteer_preference(row: Row) -> Case:
    """HelpSteer2 and 3, preferences: -3 (the first answer is much better) to 3; the margin is the strength, 0 a tie."""
    column = next(name for name in ("preference_strength", "overall_preference") if name in row)
    strength = number_of(row[column], "preference strength")
    if strength is None:
        raise BadRow("missing label")
    if not -3 <= strength <= 3:
        raise UnknownLabel(strength)
    first_wins = 0.5 * (1 + (strength < 0) - (strength > 0))
    names = ("response_1", "response_2") if "response_1" in row else ("response1", "response2")
    return of_two(asked(row), row[names[0]], row[names[1]], first_wins, margin=abs(strength))


def alpaca_farm(row: Row) -> Case:
    """AlpacaFarm and AlpacaEval's annotations: preference 1, 2, a share between them, or 0 for a tie."""
    preference = number_of(row["preference"], "preference")
    if preference is None:
        raise BadRow("missing label")
    if preference != 0 and not 1 <= preference <= 2:
        raise UnknownLabel(preference)
    return of_two(asked(row), row["output_1"], row["output_2"], 0.5 if preference == 0 else 2 - preference)


def arena(row: Row) -> Case:
    """Chatbot Arena and MT-bench: two whole conversations and who won; a vote on an earlier turn is about the turns up to it."""
    conversations = [turns_of(row[name]) for name in ("conversation_a", "conversation_b")]
    turn = row.get("turn")
    if isinstance(turn, int) and not isinstance(turn, bool) and turn > 0:
        conversations = [_up_to(turns, turn) for turns in conversations]
    first_wins, tag = voted(row["winner"], "winner", Sides("conversation_a", "conversation_b", ("a", "b"), True), row)
    return of_two(
        whole_prompt(conversations[0]), conversations[0], conversations[1], first_wins, tags={"tie": tag} if tag else None
    )


def _up_to(turns: Messages, num_answers: int) -> Messages:
    ends = [i + 1 for i, turn in enumerate(turns) if turn.role == "assistant"]
    return turns[: ends[num_answers - 1]] if len(ends) >= num_answers else turns


def arena_votes(row: Row) -> Case:
    """Chatbot Arena 55k: a vote in three columns, turns as JSON texts; answers after unlike turns are set aside."""
    votes = [number_of(row[name], "vote") for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    if votes.count(1.0) != 1 or votes.count(0.0) != 2:
        raise UnknownLabel(votes)
    prompts, first, second = (_listed(row[name]) for name in ("prompt", "response_a", "response_b"))
    if not prompts or len({len(prompts), len(first), len(second)}) > 1:
        raise BadRow("lists of different length")
    if first[:-1] != second[:-1]:
        raise BadRow("prompts differ")
    turns = [turn for exchange in zip(prompts, first, strict=True) for turn in exchange][:-1]
    before = tuple(Message("user" if i % 2 == 0 else "assistant", text_of(turn)) for i, turn in enumerate(turns))
    return of_two(before, first[-1], second[-1], (1.0, 0.0, 0.5)[votes.index(1.0)])


def _listed(cell: Any) -> list[Any]:
    found = parsed_text(cell) if isinstance(cell, str) and cell.lstrip().startswith("[") else cell
    return found if isinstance(found, list) else [found]


def ultra_feedback(row: Row) -> Case:
    """UltraFeedback, raw: four ratings of each completion as attributes; their mean is the gold, differences are margins."""
    completions = list_of(row["completions"])
    answers = [field_of(completion, "response") for completion in completions]
    ratings = [_ratings(field_of(completion, "annotations")) for completion in completions]
    means = []
    for completion, numbers in zip(completions, ratings, strict=True):
        known = [number for number in numbers.values() if not math.isnan(number)]
        fine = number_of(field_of(completion, "fine-grained_score"), "score")
        means.append(sum(known) / len(known) if known else fine)
    case = of_ranking(asked(row), answers, means, "missing score", has_margins=True)
    if isinstance(row, RowView) and any(field_of(completion, "custom_system_prompt") for completion in completions):
        row.notes.append("the completions' own system prompts are left out")
    names = list(dict.fromkeys(name for numbers in ratings for name in numbers))
    return replace(case, attributes={name: tuple(numbers.get(name, math.nan) for numbers in ratings) for name in names})


def _ratings(annotations: Any) -> dict[str, float]:
    """aspect -> its rating, which is text in the published set ("4", "N/A")."""
    found = {}
    for name, annotation in (annotations or {}).items():
        for one in annotation if isinstance(annotation, list) else [annotation]:
            rating = one.get("Rating", one.get("rating")) if isinstance(one, Mapping) else one
            found[name] = _known(number_of(rating, "rating"))
    return found


def _is_annotated(row: Row) -> bool:
    completions = row.get("completions") if has_prompt(row) else None
    return (
        isinstance(completions, list)
        and bool(completions)
        and isinstance(completions[0], Mapping)
        and "annotations" in completions[0]
    )


def stack_exchange(row: Row) -> Case:
    """Stack Exchange preferences: all answers to a question, by votes (pm_score), differences are margins."""
    answers = list_of(row["answers"])
    scores = [number_of(field_of(answer, "pm_score"), "score") for answer in answers]
    return of_ranking(row["question"], [field_of(answer, "text") for answer in answers], scores, "missing score", has_margins=True)


def _has_votes(row: Row) -> bool:
    answers = row["answers"]
    return (
        isinstance(answers, list)
        and bool(answers)
        and isinstance(answers[0], Mapping)
        and answers[0].keys() >= {"text", "pm_score"}
    )


def _known(number: float | None) -> float:
    return math.nan if number is None else number


FORMS: tuple[Form, ...] = (
    row_form("openai", ("input", "preferred_output", "non_preferred_output"), openai_preference),
    row_form("shp", ("history", "human_ref_A", "human_ref_B", "labels"), stanford_preferences),
    row_form("webgpt", ("question", "answer_0", "answer_1", "score_0", "score_1"), webgpt),
    row_form("summaries", ("info", "summaries", "choice"), summaries),
    row_form("summary-axes", ("info", "summary"), rated_summary),
    row_form("safe-rlhf", ("prompt", "response_0", "response_1", "better_response_id"), safe_rlhf),
    row_form("helpsteer2-preference", ("prompt", "response_1", "response_2", "preference_strength"), helpsteer_preference),
    row_form("helpsteer3", ("context", "response1", "response2", "overall_preference"), helpsteer_preference),
    row_form("alpaca-farm", ("instruction", "output_1", "output_2", "preference"), alpaca_farm, told=("raw_completion",)),
    row_form("arena", ("conversation_a", "conversation_b", "winner"), arena),
    row_form("arena-55k", ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"), arena_votes),
    named_form("ultrafeedback", ("instruction", "completions"), ultra_feedback, _is_annotated),
    row_form("stack-exchange", ("question", "answers"), stack_exchange, _has_votes),
)
GOLD: tuple[Form, ...] = tuple(form for form in FORMS if form.name in ("ultrafeedback", "stack-exchange"))
"""Those whose answers have scores."""
