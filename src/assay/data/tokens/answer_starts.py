"""Where an answer begins among the tokens of its completion: what a loss on the text of answers counts."""

from __future__ import annotations

from collections.abc import Sequence

from assay.data.tokens.render import Rendered, Renderer, generation_prompt
from assay.records import Completion

UNLOCATED = "the chat template alters the answer, so that its tokens, which --text-loss needs, are not known"


def with_answer_starts(renderer: Renderer, completions: Sequence[Completion], rendered: Sequence[Rendered]) -> list[Rendered]:
    """What was rendered with `answer_start` set: from there to the end stand the answer and what the template closes it with.

    The prompt is what the template writes to have an answer written (its generation prompt); where that is not how the whole text
    begins, all up to the text of the answer. Of an answer whose front was cut off all is the answer, but for the first token, which
    nothing predicts. An answer that is not found carries `UNLOCATED` as its error.
    """
    texts = [None if item.error else renderer.text(one) for one, item in zip(completions, rendered, strict=True)]
    known = [i for i, text in enumerate(texts) if text is not None]
    result = [item if item.error else item._replace(error=UNLOCATED) for item in rendered]
    if not known:
        return result
    encoded = renderer.tokenizer(
        [texts[i] for i in known],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    for row, i in enumerate(known):
        first = _first_character(renderer, completions[i], str(texts[i]))
        if first is None:
            continue
        offsets = encoded["offset_mapping"][row]
        before = next((k for k, (_, end) in enumerate(offsets) if end > first), len(offsets))
        num_cut = 0 if renderer.overlong == "keep_start" else len(offsets) - len(rendered[i].tokens)
        start = max(1, before - num_cut)
        if start < len(rendered[i].tokens):
            result[i] = rendered[i]._replace(answer_start=start)
    return result


def _first_character(renderer: Renderer, completion: Completion, text: str) -> int | None:
    """Of the answer, in the text of the whole conversation; None where it is not found."""
    asked = generation_prompt(renderer.tokenizer, completion)
    if asked and text.startswith(asked):
        return len(asked)
    core = completion.answer.content.strip()
    end = len(text) - len(renderer.closing) if text.endswith(renderer.closing) else len(text)
    found = text.rfind(core, 0, end) if core else -1
    return found if found >= 0 else None
