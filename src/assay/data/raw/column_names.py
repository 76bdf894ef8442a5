"""What columns are called in public data sets, and which of them tell about a row without being part of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice

PROMPT_NAMES = (
    "prompt", "instruction", "question", "query", "user_prompt", "user_input", "user_message", "prompt_text", "problem", "user",
    "human", "messages", "conversations", "conversation", "trajectory", "dialogue", "dialog", "chat", "turns", "conversation_input",
    "context", "input", "history", "post", "title", "text",
)  # fmt: skip
"""What a prompt is called, the first that a row has text under counts; `sources/prompts` joins what belongs together."""

_NOUNS = (
    "response", "answer", "output", "completion", "text", "message", "messages", "conversation", "conversations", "summary", "code",
    "responses", "answers", "outputs", "completions", "generation",
)  # fmt: skip


def _named(words: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Each word alone, before and after each noun (chosen, chosen_response, response_chosen ...); and the others."""
    return (*words, *[name for word in words for noun in _NOUNS for name in (f"{word}_{noun}", f"{noun}_{word}")], *others)


NAMES: Mapping[str, tuple[str, ...]] = {
    "chosen": _named(
        ("chosen", "preferred", "accepted", "better", "winning", "positive", "selected"),
        ("accept", "winner", "win", "pos", "response_j", "answer_j", "response_w", "y_w"),
    ),
    "rejected": _named(
        ("rejected", "dispreferred", "unpreferred", "non_preferred", "less_preferred", "worse", "losing", "negative"),
        ("nonpreferred", "reject", "loser", "lose", "neg", "response_k", "answer_k", "response_l", "y_l"),
    ),
    "completion": ("completion", "response", "output", "answer", "generation", "reply", "model_response", "generated_text"),
    "responses": (
        "responses", "completions", "generations", "candidates", "answers", "outputs", "generated_responses",
        "all_generated_responses", "options", "replies", "model_responses",
    ),
    "scores": (
        "scores", "ratings", "rewards", "all_rm_scores", "rm_scores", "reward_scores", "overall_scores", "quality_scores",
        "human_scores", "response_scores", "score", "rating",
    ),
    "ranks": ("ranks", "rank"),
    "label": (
        "label", "labels", "kto_tag", "kto_label", "is_good", "good", "desirable", "is_desirable", "thumbs_up", "thumbsup",
        "thumb", "liked", "is_accepted", "is_correct", "correct", "is_chosen", "is_safe", "is_preferred", "is_helpful",
        "feedback_label", "binary_label",
    ),
    "score": (
        "score", "rating", "reward", "overall_score", "overall_rating", "quality", "overall_quality", "human_score",
        "human_rating", "mean_score", "mean_rating", "average_score", "average_rating", "avg_score", "avg_rating", "stars",
        "helpfulness", "label_score", "reward_score", "rm_score", "points", "upvotes",
    ),
    "system": ("system", "system_prompt", "system_message", "sys_prompt", "system_instruction"),
    "history": ("history", "chat_history", "conversation_history", "previous_turns"),
    "margin": ("margin", "score_margin", "reward_margin"),
    "weight": ("weight", "sample_weight"),
}  # fmt: skip
"""What the columns of forms are called in public data sets; the first that a row has a value under counts."""

MEANINGS = (
    "prompt",
    "chosen",
    "rejected",
    *[name for name in NAMES if name not in ("chosen", "rejected")],
    "input",
    "messages",
    "tools",
    "ground_truth",
    "critique",
    "id",
    "response_a",
    "response_b",
    "winner",
)
"""What `--columns` can say that a column is."""

TOLD_WORDS = {
    "rationale", "rationales", "critique", "critiques", "justification",
    "feedback", "annotator", "annotators", "annotations", "annotation", "generator", "policy", "worker", "model", "models",
    "author", "username", "url", "link", "links", "date", "time", "timestamp", "tstamp", "created", "license", "hash", "tag",
    "tags", "category", "categories", "topic", "topics", "task", "type", "subset", "subdomain", "domain", "domains", "source",
    "sources", "split", "language", "lang", "metadata", "meta", "version", "status", "file", "filename", "path", "origin",
    "moderation", "toxicity", "quotes", "principle", "principles", "intent", "difficulty", "method", "labelling", "index",
    "config", "params", "settings", "dataset", "provenance", "emojis", "group", "cluster", "skill", "skills", "keywords",
}  # fmt: skip
"""Words in names of columns that tell about a row and are no part of it, though they may hold text."""

PART_WORDS = {
    "response", "responses", "answer", "answers", "output", "text", "prompt", "question", "instruction", "completion", "message",
    "messages", "context", "input", "system", "conversation", "content", "body", "summary", "description", "document", "query",
    "history",
}  # fmt: skip
"""Words in names of columns that may be parts of a prompt or an answer, whatever other words there are."""

TOLD_COLUMNS = {
    "individual_preference", "reason", "reasons", "explanation", "explanations", "preference_statement", "preference_elaboration",
    "three_most_similar_preferences", "all_preferences_unprocessed", "original_chosen", "original_rejected",
    "raw_labelling_response", "labelling_prompt", "openai_moderation", "toxic_chat_tag", "conv_metadata", "full_conversation",
    "chosen_model", "rejected_model", "raw_preference", "prompt_source", "prompt_type", "completion_source", "harm_category",
    "response_0_harm_category", "response_1_harm_category", "all_generated_responses", "generations", "generated_responses",
    "all_responses", "new_generations", "original_response", "raw_generation_responses", "generation_prompt",
    "raw_generation_response", "correct_answers", "incorrect_answers", "ground_truth", "reward_model", "extra_info",
    "data_source", "ability", "seed_prompt",
}  # fmt: skip
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]")


def is_told(name: str) -> bool:
    """Whether a column or field of that name tells about a row or an answer, and is no part of it."""
    if name in TOLD_COLUMNS:
        return True
    words = set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    return bool(words & TOLD_WORDS) and not words & PART_WORDS


def is_prose(text: str) -> bool:
    """Whether a text is of several words, or of a script that has no spaces between them."""
    has_words = len(text.split(maxsplit=1)) > 1 and len(list(islice(_LETTERS.finditer(text), 2))) > 1
    return has_words or len(list(islice(_UNSPACED.finditer(text), 4))) > 3
