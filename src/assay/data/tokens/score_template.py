"""The score template of an artifact: with it vLLM's /score and /rerank read a question and an answer as Assay does.

vLLM joins the two texts without any template unless `--chat-template` names one. It then renders a conversation of the roles
`query` and `document`, and tokenises the text with the special tokens that the tokenizer adds. Conversations of other roles are
rendered as by the artifact's own template, so that the file can stand in for it.
"""

from __future__ import annotations

import json
from typing import Any

from assay.data.tokens.render import Renderer
from assay.records import Completion, as_messages

SCORE_TEMPLATE_FILE = "score_template.jinja"

_PAIR = (
    "{%- if messages[0]['role'] == 'query' %}{% set is_pair = true %}{% set messages = ["
    "{'role': 'user', 'content': messages[0]['content']}, {'role': 'assistant', 'content': messages[1]['content']}] %}"
    "{% else %}{% set is_pair = false %}{% endif %}"
)
_QUESTION, _ANSWER = "What is 2 + 2?", "It is 4."


def score_template(renderer: Renderer) -> str | None:
    """The template for `vllm serve ... --chat-template`; None when it would not give the renderer's tokens.

    What the tokenizer adds by itself is cut off, lest it stands twice.
    """
    tokenizer = renderer.tokenizer
    template = str(tokenizer.chat_template)
    before, after = added_specials(tokenizer)
    if before or after:
        # one end of line is dropped after a block, and at the end of a template
        template = _PAIR + "{% set whole %}\n" + template.removesuffix("\n") + "{{ '' }}{% endset %}" + _cut(before, after)
    else:
        template = _PAIR + "\n" + template
    return template if _reads_alike(renderer, template) else None


def added_specials(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that a tokenizer puts before and after a text, as text."""
    with_ids, plain_ids = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    start = next((i for i in range(len(with_ids)) if with_ids[i : i + len(plain_ids)] == plain_ids), 0)
    ends = with_ids[:start], with_ids[start + len(plain_ids) :]
    before, after = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in ends)
    return before, after


def _cut(before: str, after: str) -> str:
    first, last = json.dumps(before, ensure_ascii=False), json.dumps(after, ensure_ascii=False)
    start = f"{{% set start = {len(before)} if is_pair and whole.startswith({first}) else 0 %}}"
    end = f"{{% set end = {len(after)} if is_pair and {last} and whole.endswith({last}) else 0 %}}"
    return start + end + "{{ whole[start:whole | length - end] }}"


def _reads_alike(renderer: Renderer, template: str) -> bool:
    """Whether vLLM's way with the template gives the renderer's tokens, tried on one question and answer."""
    (expected,) = renderer.render([Completion(messages=as_messages(_QUESTION), response=_ANSWER)])
    pair = [{"role": "query", "content": _QUESTION}, {"role": "document", "content": _ANSWER}]
    try:
        text = renderer.tokenizer.apply_chat_template(pair, chat_template=template, tokenize=False)
    except Exception:  # whatever a template raises
        return False
    return expected.error is None and renderer.tokenizer(text)["input_ids"] == expected.tokens.tolist()
