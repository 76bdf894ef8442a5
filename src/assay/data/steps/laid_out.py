"""The layout of another's process model as the path from text to tokens of an artifact that was made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from assay.data.steps.step_layouts import StepLayout, StepRenderer
from assay.data.tokens.padding import Ends, choose_padding
from assay.data.tokens.render import AnswerTokens, Overlong, Rendered
from assay.records import Completion

LAID_OUT = "laid-out steps"  # the entry "input" of reward.json


class LaidOutRenderer:
    """A `StepRenderer` with what `Renderer` offers. Completions are given in steps.

    writes_prompt: whether the tokenizer's chat template writes what stands before the first step, of layouts that need none.
    """

    closing = ""
    ends = Ends()
    closes = False
    template_changes: tuple[str, ...] = ()
    overlong: Overlong = "keep_start"

    def __init__(self, tokenizer: Any, layout: StepLayout, *, max_length: int, writes_prompt: bool = False) -> None:
        self.steps = StepRenderer(tokenizer, layout, max_length=max_length, uses_template=writes_prompt)
        self.tokenizer, self.max_length, self.writes_prompt = tokenizer, max_length, writes_prompt
        self.pad_id = choose_padding(tokenizer, self.steps.mark_ids[-1])
        if self.steps.template is not None:
            tokenizer.chat_template = self.steps.template
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = tokenizer.init_kwargs["truncation_side"] = "right"
        tokenizer.model_max_length = max_length

    @property
    def template(self) -> str:
        """What the template's digest in reward.json is of."""
        return json.dumps([self.steps.template, asdict(self.steps.layout)], ensure_ascii=False)

    def settings(self) -> dict[str, Any]:
        """What `reward.json` records of the length policy and the layout."""
        return {
            "max_length": self.max_length,
            "overlong": self.overlong,
            "template_changes": [],
            "input": LAID_OUT,
            "layout": {**asdict(self.steps.layout), "writes_prompt": self.writes_prompt},
        }

    @staticmethod
    def from_settings(tokenizer: Any, settings: dict[str, Any]) -> LaidOutRenderer:
        """The renderer that `settings` describes. Raises ValueError for a layout that this version does not know."""
        entry = dict(settings["layout"])
        try:
            writes_prompt = bool(entry.pop("writes_prompt", False))
            layout = StepLayout(**entry)
        except TypeError as error:
            raise ValueError(f"the entry 'layout' of reward.json cannot be read ({error}): upgrade assay-rm") from error
        return LaidOutRenderer(tokenizer, layout, max_length=settings["max_length"], writes_prompt=writes_prompt)

    def render(self, completions: Sequence[Completion]) -> list[Rendered]:
        """N solutions -> N token sequences, in order, cut behind the last step that is read. A text or ids are taken as they are,
        and the last token is read."""
        empty = np.empty(0, np.int32)
        found = []
        for completion in completions:
            item = self.steps.whole(completion) if completion.response is None else self.steps.render([completion])[0]
            if not len(item.tokens):
                found.append(Rendered(empty, empty, error=item.error or "the solution gives no token"))
            else:
                reads = item.reads[-1:] if completion.response is None else item.reads
                found.append(Rendered(item.tokens, reads, is_cut=item.error is not None, lost=item.error))
        return found

    def text(self, completion: Completion) -> str | None:
        """None: where ids are joined there is no one text that has them."""
        return None

    def answer_tokens(self, completion: Completion) -> AnswerTokens:
        """Raises ValueError: the tokens of an answer stand between separators."""
        raise ValueError("the answer is laid out in steps with separators between them: its tokens are not followed one by one")
