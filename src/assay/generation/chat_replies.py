"""From the text of a chat completion to replies. Whatever is not there, or not as it should be, is a failure with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from assay.generation.replies import Reply, TokenChoices

_MOST_LOGPROB = 1e-6  # above it a number is no logarithm of a probability


def failed(
    reason: str,
    *,
    seconds: float = 0.0,
    may_pass: bool = False,
    retry_after: float = 0.0,
    usage: tuple[int | None, int | None] = (None, None),
) -> Reply:
    """A call that gave no reply."""
    return Reply(None, "", *usage, seconds, None, reason, (), may_pass, retry_after)


def replies_in(text: str, num_replies: int, *, seconds: float, with_tokens: bool, stop: tuple[str, ...] = ()) -> list[Reply]:
    """The replies of one answered call. Its tokens are billed on the first; replies that are missing are failures that may pass.

    stop: texts that end a reply; the one that it met is put behind it, where the endpoint says which that was.
    """
    try:
        content = json.loads(text)
    except ValueError:
        kind = "a page of HTML" if text.lstrip()[:1] == "<" else "half a JSON" if text.lstrip()[:1] in "{[" else "no JSON"
        return [
            failed(f"the endpoint answered 200 with {kind if text.strip() else 'nothing'}", seconds=seconds, may_pass=True)
        ] * num_replies
    usage = _usage(content)
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices:
        said = content.get("error") if isinstance(content, dict) else None
        reason = "the endpoint answered 200 without choices" + (f" ({str(said)[:200]})" if said else "")
        return [failed(reason, seconds=seconds, may_pass=True, usage=usage)] + [failed(reason, may_pass=True, usage=(0, 0))] * (
            num_replies - 1
        )
    replies = []
    for place in range(num_replies):
        billed, took = (usage, seconds) if place == 0 else ((0, 0), 0.0)
        if place >= len(choices):
            reason = f"the endpoint gave {len(choices)} of {num_replies} replies"
            replies.append(failed(reason, may_pass=True, usage=billed))
        else:
            replies.append(_reply(choices[place], billed, took, with_tokens, stop))
    return replies


def _reply(choice: Any, usage: tuple[int | None, int | None], seconds: float, with_tokens: bool, stop: tuple[str, ...]) -> Reply:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return failed("the endpoint gave a choice without a message", seconds=seconds, may_pass=True, usage=usage)
    finish = str(choice.get("finish_reason") or "")
    content = message.get("content")
    if isinstance(content, list):  # parts, as some servers have them
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if (refusal := message.get("refusal")) and not content:
        return failed(f"refused: {str(refusal)[:200]}", seconds=seconds, usage=usage)
    if finish == "content_filter":
        return failed("refused: the endpoint's content filter", seconds=seconds, usage=usage)
    tokens = _tokens(choice.get("logprobs")) if with_tokens else ()
    return Reply(valid(_with_stop(str(content or ""), choice, stop)), finish, *usage, seconds, tokens=tokens)


def _with_stop(text: str, choice: dict[str, Any], stop: tuple[str, ...]) -> str:
    """The text with what ended it: `stop_reason` of vLLM, `matched_stop` of SGLang."""
    met = choice.get("stop_reason", choice.get("matched_stop"))
    return text + met if isinstance(met, str) and met in stop and not text.endswith(met) else text


def _tokens(logprobs: Any) -> tuple[TokenChoices, ...]:
    """The tokens and their rivals; empty where the endpoint gives none, or numbers that are none."""
    rows = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(rows, list):
        return ()
    found = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("token"), str):
            return ()
        rivals = [one for one in row.get("top_logprobs") or [] if isinstance(one, dict)]
        given = {str(one.get("token")): one.get("logprob") for one in [row, *rivals]}
        top = {
            token: float(value)
            for token, value in given.items()
            if isinstance(value, int | float) and math.isfinite(value) and value <= _MOST_LOGPROB
        }
        found.append(TokenChoices(row["token"], tuple(sorted(top.items(), key=lambda item: -item[1]))))
    return tuple(found)


def _usage(content: Any) -> tuple[int | None, int | None]:
    usage = content.get("usage") if isinstance(content, Mapping) else None
    counts = [usage.get(name) if isinstance(usage, Mapping) else None for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return read, written


def valid(text: str) -> str:
    """The text with lone surrogates, which JSON can spell and no file can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
