"""A transformers language model in this process as a backend.

A verdict among given choices needs no writing: the probabilities of all spellings of each choice are read where the reply would
begin. What asks have in common (rubric and prompt, before the answer) is computed once, and the answers a few at a time behind it.
Replies are sampled together; a prompt is computed once for all of its samples.

Shapes: R reads, V tokens of the vocabulary, D hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from assay.data.tokens.packing import Group, PackedBatch, make_group, pack, siblings, split_group
from assay.data.tokens.render import Renderer
from assay.files import file_sha256, json_digest
from assay.generation.decode_loop import Decoder, Wish
from assay.generation.prices import FREE
from assay.generation.prompt_tokens import PromptTokens
from assay.generation.replies import Ask, Desk, Features, Reply, TokenChoices, Unreadable
from assay.generation.spellings import SpelledTokens, Spellings
from assay.models.backbone import Backbone, attention_for
from assay.models.base_checks import position_limit
from assay.models.bases import fetch, no_progress_bars, resolve_base
from assay.models.device import pick_compute, plan_scoring
from assay.models.kept_prompt import kept_bytes
from assay.models.published.weight_files import refuse_pickles
from assay.records import Dtype

_LONGEST = 32_768  # tokens of a prompt and its reply, where the model's positions have no limit
_READS_AT_ONCE = 64  # rows of a whole vocabulary in memory
_VOCABULARY_CHUNK = 16_384  # rows of the output matrix that are float32 at a time
_LEAST_LOGPROB = math.log(1e-5)  # of the first token of a choice that is read over several
_AGREES = 0.02  # largest difference of log-probabilities between the packed forward and the whole model, in float32


class LocalModel:
    """A causal language model with its tokenizer. model: its name; identity: digest of weights, template and number format.

    max_tokens: token budget of one forward, None for the fastest on this machine. max_rows: replies that are written at once.
    Raises ValueError for a model whose verdicts cannot be read from its last states.
    """

    is_thread_safe = False
    repeats = True
    price = FREE

    def __init__(
        self, causal: Any, tokenizer: Any, *, model: str, identity: str, max_tokens: int | None = None, max_rows: int = 64
    ) -> None:
        limit = position_limit(causal.config) or _LONGEST
        renderer = Renderer(tokenizer, max_length=limit)  # a template of its own where there is none; today's date pinned
        self.model, self.causal, self.pad_id = model, causal.eval(), renderer.pad_id
        self.backbone = Backbone(causal.base_model)
        self.tokens = PromptTokens(tokenizer, limit)
        self.decoder = Decoder(causal, tokenizer, closing=renderer.closing, limit=limit, max_rows=max_rows)
        self.identity = json_digest(["local", identity, tokenizer.chat_template, str(causal.dtype)])
        self._spelled: SpelledTokens | None = None
        self.plan = plan_scoring(
            *self.backbone.activation_bytes(causal.dtype),
            self.backbone.device,
            max_tokens=max_tokens,
            longest=min(limit, _LONGEST),
            cuts_groups=self.backbone.layout != "one row",
            kept_bytes=kept_bytes(causal.config, causal.dtype) if self.backbone.keeps_prompts() else 0,
        )
        self._reads_states: bool | None = None

    def probe(self) -> tuple[Features, Reply]:
        """What it can do is known."""
        return Features(replies=True, logprobs=True, schema=False), Reply("", "known", 0, 0)

    def use(self, features: Features) -> None:
        """Nothing is to be set."""

    def run(self, asks: Sequence[Ask], desk: Desk) -> None:
        """See `Backend.run`."""
        left = list(range(len(asks)))
        began = {i: time.monotonic() for i in left}
        while left:
            again = []
            for i, reply in self._replies(asks, self._allowed(left, desk)):
                seconds_left = began[i] + desk.item_seconds - time.monotonic()
                if desk.settle(i, reply, max(seconds_left, 1.0)) is not None:
                    again.append(i)
            left = again

    def _allowed(self, places: Iterable[int], desk: Desk) -> list[int]:
        allowed = []
        for i in places:
            if (reason := desk.may_send(i)) is None:
                allowed.append(i)
            else:
                desk.unsent(i, reason)
        return allowed

    def _replies(self, asks: Sequence[Ask], places: Sequence[int]) -> Iterable[tuple[int, Reply]]:
        prompts: dict[int, np.ndarray] = {}
        for i in places:
            try:
                prompts[i] = self.tokens(asks[i].messages)
            except Unreadable as reason:
                yield i, Reply(None, error=str(reason), input_tokens=0, output_tokens=0)
        to_read = [i for i in prompts if asks[i].sampling.choices]
        yield from self._verdicts(asks, prompts, to_read)
        wishes = [
            Wish(i, prompts[i], asks[i].sampling, asks[i].sample, asks[i].goes_on, self._reads(asks[i]))
            for i in prompts
            if not asks[i].sampling.choices
        ]
        yield from self.decoder.replies(wishes)

    def _reads(self, ask: Ask) -> tuple[np.ndarray, ...]:
        """The tokens of each text that is to be read as it may be written; none where one of them takes several tokens."""
        if not ask.sampling.reads:
            return ()
        spelled = self.spelled.of(ask.sampling.reads)
        return () if any(spelled.long) or spelled.continued else spelled.single

    @torch.inference_mode()
    def _verdicts(self, asks: Sequence[Ask], prompts: dict[int, np.ndarray], places: Sequence[int]) -> Iterable[tuple[int, Reply]]:
        """The log-probabilities of each ask's choices, read behind its prompt."""
        if not places:
            return
        self._refuse_other_logits()
        spelled: dict[int, Spellings] = {}
        for i in places:
            try:
                spelled[i] = self.spelled.of(asks[i].sampling.choices)
            except ValueError as error:
                yield i, Reply(None, error=str(error), input_tokens=0, output_tokens=0)
        began = time.monotonic()
        firsts = {row.place: logprobs_RV[0] for row, logprobs_RV in self._read(asks, [_Row.first(i, prompts[i]) for i in spelled])}
        longer = [
            _Row.of(i, prompts[i], sequence)
            for i, each in spelled.items()
            for sequence in each.sequences()
            if firsts[i][sequence[0]] > _LEAST_LOGPROB  # what begins unlikely cannot be likely as a whole
        ]
        whole: dict[int, dict[tuple[int, ...], float]] = {i: {} for i in spelled}
        for row, logprobs_RV in self._read(asks, longer):
            whole[row.place][row.sequence] = sum(float(logprobs_RV[k][token]) for k, token in enumerate(row.sequence))
        seconds = (time.monotonic() - began) / max(len(firsts), 1)
        for i, first_V in firsts.items():
            yield i, _verdict(asks[i].sampling.choices, spelled[i], first_V, whole[i], len(prompts[i]), seconds)

    def _read(self, asks: Sequence[Ask], rows: Sequence[_Row]) -> Iterable[tuple[_Row, np.ndarray]]:
        """Each row with its log-probabilities (R, V)."""
        for batch, members in self._batches(asks, rows):
            states_RD = self.backbone.read(batch)
            start = 0
            for part in _parts(members):
                end = start + sum(len(row.reads) for row in part)
                logprobs_RV = self._logprobs(states_RD[start:end])
                for row in part:
                    yield row, logprobs_RV[: len(row.reads)]
                    logprobs_RV = logprobs_RV[len(row.reads) :]
                start = end

    @property
    def spelled(self) -> SpelledTokens:
        if self._spelled is None:
            self._spelled = SpelledTokens(self.tokens.tokenizer)
        return self._spelled

    def _batches(self, asks: Sequence[Ask], rows: Sequence[_Row]) -> Iterable[tuple[PackedBatch, list[_Row]]]:
        """The batches to run, each with its rows in the order of their reads."""
        named: dict[str, list[int]] = {}
        for k, row in enumerate(rows):
            named.setdefault(asks[row.place].shared or f"ask {k}", []).append(k)
        alone = [part[0] for part in named.values() if len(part) == 1]  # one answer to its prompt: the rubric may still be shared
        together = [part for part in named.values() if len(part) > 1]
        together += [[alone[j] for j in part] for part in siblings([rows[k].tokens for k in alone])]
        if not self.backbone.can_branch:
            together = [[k] for k in range(len(rows))]
        groups: list[Group] = []
        members: list[list[_Row]] = []
        for part in together:
            tokens, reads = [rows[k].tokens for k in part], [rows[k].reads for k in part]
            for piece in split_group(tokens, reads, self.plan.group_tokens):
                groups.append(make_group([tokens[j] for j in piece], [reads[j] for j in piece]))
                members.append([rows[part[j]] for j in piece])
        for batch in pack(groups, self.plan.max_tokens, pad_id=self.pad_id, layout=self.backbone.layout):
            yield batch, [row for index in batch.order for row in members[index]]

    def _logprobs(self, states_RD: torch.Tensor) -> np.ndarray:
        """(R, V) float32 log-probabilities of the next token, with the output matrix in float32, a part at a time."""
        head = self.causal.get_output_embeddings()
        parts = []
        for start in range(0, head.weight.shape[0], _VOCABULARY_CHUNK):
            rows = slice(start, start + _VOCABULARY_CHUNK)
            logits = states_RD.float() @ head.weight[rows].float().T
            parts.append(logits if getattr(head, "bias", None) is None else logits + head.bias[rows].float())
        logits_RV = torch.cat(parts, dim=1)
        if cap := getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None):
            logits_RV = cap * torch.tanh(logits_RV / cap)
        return logits_RV.log_softmax(dim=1).cpu().numpy()

    def _refuse_other_logits(self) -> None:
        """Compared once with the whole model, on a few tokens: some architectures scale their logits in ways of their own."""
        if self._reads_states is None:
            ids = np.arange(1, 9, dtype=np.int32)
            batch = pack([make_group([ids], [np.array([7])])], 64)[0]
            ours = torch.from_numpy(self._logprobs(self.backbone.read(batch))[0])
            theirs = self.causal(input_ids=torch.from_numpy(ids[None].astype(np.int64)).to(self.backbone.device), use_cache=False)
            expected = theirs.logits[0, -1].float().cpu().log_softmax(dim=0)
            exact = self.causal.dtype == torch.float32
            nearest = expected > expected.max() - 12  # in a half format the unlikeliest tokens differ most, and count least
            difference = float((ours - expected)[nearest].abs().max())
            self._reads_states = difference <= (_AGREES if exact else 30 * _AGREES)
        if not self._reads_states:
            raise ValueError(
                f"{self.model}: verdicts cannot be read from the last states of {type(self.causal).__name__}, whose logits differ: "
                'give reading = "text" in [judge]'
            )


class _Row(NamedTuple):
    """One sequence to run: a prompt, or a prompt with the beginning of a choice that is several tokens. reads: where the next
    token's probabilities are read; place: of the ask; sequence: the tokens that are read, () for the first token of all choices."""

    place: int
    tokens: np.ndarray
    reads: np.ndarray
    sequence: tuple[int, ...] = ()

    @classmethod
    def first(cls, place: int, prompt: np.ndarray) -> _Row:
        return cls(place, prompt, np.array([len(prompt) - 1]))

    @classmethod
    def of(cls, place: int, prompt: np.ndarray, sequence: tuple[int, ...]) -> _Row:
        tokens = np.concatenate([prompt, np.array(sequence[:-1], np.int32)])
        return cls(place, tokens, np.arange(len(prompt) - 1, len(tokens)), sequence)


def _parts(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Rows whose probabilities are held in memory at once."""
    parts: list[list[_Row]] = [[]]
    for row in rows:
        if parts[-1] and sum(len(one.reads) for one in parts[-1]) + len(row.reads) > _READS_AT_ONCE:
            parts.append([])
        parts[-1].append(row)
    return parts


def _verdict(
    choices: Sequence[str],
    spellings: Spellings,
    first_V: np.ndarray,
    whole: dict[tuple[int, ...], float],
    num_tokens: int,
    seconds: float,
) -> Reply:
    """The choices with the mass of all their spellings, likeliest first."""
    masses = []
    for ids, sequences in zip(spellings.single, spellings.long, strict=True):
        mass = float(np.exp(first_V[ids].astype(np.float64)).sum()) + sum(
            math.exp(whole[sequence]) for sequence in sequences if sequence in whole
        )
        masses.append(mass)
    for place, sequence in spellings.continued:
        if sequence not in whole:
            continue
        masses[place] = max(0.0, masses[place] - math.exp(whole[sequence]))
    ranked = sorted(zip(choices, masses, strict=True), key=lambda item: -item[1])
    top = tuple((choice, math.log(mass)) for choice, mass in ranked if mass > 0)
    if not top:
        return Reply(None, error="no choice has any probability", input_tokens=num_tokens, output_tokens=0, seconds=seconds)
    return Reply(top[0][0], "choice", num_tokens, 0, seconds, 0.0, tokens=(TokenChoices(top[0][0], top),))


@no_progress_bars()
def load_language_model(
    base: str | Path, *, dtype: Dtype = "auto", device: str = "auto", max_tokens: int | None = None
) -> LocalModel:
    """The language model of a directory, a GGUF file or a hub id. Raises ValueError as `resolve_base`, for a directory without
    weights in safetensors, and for what is no causal language model."""
    compute = pick_compute(device, dtype)
    resolved = resolve_base(str(base))
    path = Path(resolved.path) if Path(resolved.path).is_dir() else fetch(resolved.path)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        refuse_pickles(path)
        raise ValueError(f"{base} holds no weights in safetensors: give a whole checkpoint")
    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    if any(name.endswith("Classification") for name in getattr(config, "architectures", None) or ()):
        raise ValueError(f"{base} is a reward model ({config.architectures[0]}), which does not write: give a chat model")
    try:
        causal, loading = AutoModelForCausalLM.from_pretrained(
            str(path),
            config=config,
            dtype=compute.dtype,
            trust_remote_code=False,
            attn_implementation=attention_for(config),
            output_loading_info=True,
            use_safetensors=True,
        )
    except ValueError as error:
        raise ValueError(f"{base} is no causal language model that transformers can load ({str(error).splitlines()[0]})") from error
    if loading["missing_keys"]:
        raise ValueError(
            f"{base} lacks weights such as {sorted(loading['missing_keys'])[:3]}: a reward model cannot write; give a chat model"
        )
    identity = json_digest([[file.name, file_sha256(file)] for file in weights])
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    return LocalModel(causal.to(compute.device), tokenizer, model=resolved.name, identity=identity, max_tokens=max_tokens)
