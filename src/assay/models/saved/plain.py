"""The artifact in plain transformers, without Assay's renderer, packing or head: the reference for parity checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from assay.data.steps.laid_out import LAID_OUT
from assay.data.tokens.text_pair import JOINED_BY, TEXT_PAIR
from assay.errors import ArtifactError
from assay.models.bases import no_progress_bars
from assay.models.heads import SCALAR, head_named
from assay.models.saved.artifact import saved_constant
from assay.models.saved.plain_steps import plain_steps
from assay.records import Completion
from assay.run_files import REWARD_FILE, read_description


class PlainReader:
    """The tokenizer and the model of transformers that an artifact directory holds, in float32.

    constant: what the saved head adds to every reward beside what transformers' class computes (0 but for adopted heads with a
    bias); `rewards` adds it too. takes_pairs: an encoder that reads question and answer as a pair of texts. layout: of an adopted
    process model, how it joins steps; None for every other artifact.
    """

    @no_progress_bars()
    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        description = read_description(path) if (Path(path) / REWARD_FILE).is_file() else {}
        self.head = head_named(description.get("kind", SCALAR.kind))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
            self.model: Any = self.head.loader.from_pretrained(str(path), dtype=torch.float32, trust_remote_code=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"plain transformers cannot load {path}: {error}") from error
        self.constant, self.takes_pairs = saved_constant(path), description.get("input") == TEXT_PAIR
        self.layout = description["layout"] if description.get("input") == LAID_OUT else None
        self._types: dict[tuple[int, ...], list[int]] = {}  # token types of the pairs that were tokenised
        if not (self.takes_pairs or self.layout or isinstance(self.tokenizer.chat_template, str)):
            raise ArtifactError(f"{path} has lost its chat template: restore chat_template.jinja")
        self.model.to(device).eval()

    @property
    def pad_id(self) -> int | None:
        """The token id by which the model finds the end of a padded row."""
        return self.model.config.get_text_config().pad_token_id

    def text(self, completion: Completion, *, today: str | None = None) -> str:
        """A completion in messages form, rendered by the saved chat template. today: the date to use in the template."""
        if self.takes_pairs:
            return JOINED_BY.join(turn.content for turn in (*completion.messages, completion.answer))
        clock = "" if today is None else f"{{%- macro strftime_now(format) -%}}{today}{{%- endmacro %}}"
        template, tools = clock + self.tokenizer.chat_template, list(completion.tools) or None
        return self.tokenizer.apply_chat_template(completion.conversation(), tools=tools, chat_template=template, tokenize=False)

    def ids(self, completion: Completion) -> list[int]:
        """Ids of a completion by the files' own template, or of an encoder's pair or an adopted model's steps, not cut."""
        if self.layout is not None:
            return plain_steps(self.tokenizer, self.layout, completion).ids
        if not self.takes_pairs:
            return self.token_ids(self.text(completion))
        question = JOINED_BY.join(turn.content for turn in completion.messages)
        encoded = self.tokenizer(question, completion.response, return_token_type_ids=True, verbose=False)
        ids = [int(token) for token in encoded["input_ids"]]
        self._types[tuple(ids)] = list(encoded["token_type_ids"])
        return ids

    def token_ids(self, text: str, *, add_special_tokens: bool = False, truncation: bool = False) -> list[int]:
        """Ids of a rendered text; with truncation cut by the tokenizer's own settings."""
        encoded = self.tokenizer(text, add_special_tokens=add_special_tokens, truncation=truncation, verbose=False)
        return [int(token) for token in encoded["input_ids"]]

    def reads(self, completion: Completion) -> list[int]:
        """Tokens at which the rewards of a completion in steps are read: of each step the last one that begins before the step's
        end, white space apart. (A character may take several tokens.) Of an adopted model where its publisher reads."""
        if self.layout is not None:
            return plain_steps(self.tokenizer, self.layout, completion).reads
        text, response = self.text(completion), str(completion.response)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        begins = [begin for begin, _ in encoded["offset_mapping"]]
        start, places = text.rindex(response.strip()) - _num_blank(response), []
        for step in completion.steps or ():
            places.append(sum(begin < start + len(step.rstrip()) for begin in begins) - 1)
            start += len(step)
        return places

    @torch.inference_mode()
    def rewards(
        self,
        rows: Sequence[Sequence[int]],
        *,
        reads: Sequence[Sequence[int]] | None = None,
        one_by_one: bool = False,
        side: str = "right",
        pad_id: int | None = None,
    ) -> np.ndarray:
        """Rewards (R,) float32 of N token sequences, in one padded batch or one by one; NaN when a batch cannot be padded.

        reads: of each row the tokens that are read, where the model labels tokens; left out, the last one. side: where padding
        goes. pad_id: the padding id for batch and model; when left out, the tokenizer's and the model's own ids are used, which are
        equal in a valid artifact.
        """
        reads = [[len(row) - 1] for row in rows] if reads is None else reads
        if not rows:
            return np.empty(0, np.float32)
        if one_by_one:
            both = zip(rows, reads, strict=True)
            return np.concatenate([self.rewards([row], reads=[places], side=side, pad_id=pad_id) for row, places in both])
        config = self.model.config.get_text_config()
        own, filler = config.pad_token_id, self.tokenizer.pad_token_id if pad_id is None else pad_id
        width = max(map(len, rows))
        if any(len(row) < width for row in rows) and (filler is None or (own is None and pad_id is None)):
            return np.full(sum(map(len, reads)), np.nan, dtype=np.float32)
        gaps = [[filler] * (width - len(row)) for row in rows]
        filled = [[*gap, *row] if side == "left" else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)]
        is_text = [[0] * len(gap) + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)]
        mask = torch.tensor([row if side == "left" else row[::-1] for row in is_text], device=self.model.device)
        more = {}
        if self.takes_pairs and "token_type_ids" in self.tokenizer.model_input_names:
            types = [self._types.get(tuple(row), [0] * len(row)) for row in rows]
            filled_types = [[*gap, *row] if side == "left" else [*row, *gap] for gap, row in zip(_zeros(gaps), types, strict=True)]
            more = {"token_type_ids": torch.tensor(filled_types, device=self.model.device)}
        config.pad_token_id = own if pad_id is None else pad_id
        try:
            logits = self.model(input_ids=torch.tensor(filled, device=self.model.device), attention_mask=mask, **more).logits
        finally:
            config.pad_token_id = own
        shift = [len(gap) if side == "left" else 0 for gap in gaps]
        places = [[place + by for place in own_reads] for own_reads, by in zip(reads, shift, strict=True)]
        return self.head.plain_rewards(logits.float(), places).cpu().numpy() + np.float32(self.constant)


def _num_blank(text: str) -> int:
    """White space at the beginning of a text, which a chat template may cut off."""
    return len(text) - len(text.lstrip())


def _zeros(gaps: Sequence[Sequence[int | None]]) -> list[list[int]]:
    return [[0] * len(gap) for gap in gaps]


def plain_scores(path: str | Path, completions: Sequence[Completion], *, batch_size: int = 4) -> np.ndarray:
    """Rewards float32 of completions in messages form by plain transformers, in padded batches: (N,), or where the head reads steps
    those of all steps, one completion after another. Completions in steps must fit into the length limit."""
    reader = PlainReader(path)
    rows = [
        reader.ids(completion) if reader.takes_pairs else reader.token_ids(reader.text(completion), truncation=True)
        for completion in completions
    ]
    reads = (
        [reader.reads(completion) for completion in completions] if reader.head.reads_steps else [[len(row) - 1] for row in rows]
    )
    starts = range(0, len(rows), batch_size)
    batches = ((rows[start : start + batch_size], reads[start : start + batch_size]) for start in starts)
    return np.concatenate([reader.rewards(some, reads=places) for some, places in batches])
