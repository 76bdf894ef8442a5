"""A causal language model that is trained, the frozen one that it started from, and its way from messages to tokens.

Suffixes: N answers, T tokens of answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from assay.data.tokens.render import Renderer
from assay.files import new_directory
from assay.generation.decode_loop import end_ids
from assay.generation.prompt_tokens import PromptTokens
from assay.models.backbone import attention_for
from assay.models.base_checks import position_limit
from assay.models.bases import fetch, no_progress_bars, refuse_broken_weights, resolve_base
from assay.models.device import Compute
from assay.models.published.weight_files import refuse_pickles
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.rollouts import Rollouts, log_probabilities, parts, sharing, states_of
from assay.training.settings import parse_params


class PolicyTokens:
    """From messages to the tokens that a policy goes on with, and from its tokens to texts. ends: tokens that end an answer."""

    def __init__(self, tokenizer: Any, causal: Any) -> None:
        limit = position_limit(causal.config)
        renderer = Renderer(tokenizer, max_length=limit or 32_768)
        self.tokenizer, self.prompt = tokenizer, PromptTokens(tokenizer, limit)
        self.ends, self.pad_id = tuple(sorted(end_ids(causal, tokenizer, renderer.closing))), renderer.pad_id
        if not self.ends:
            raise ValueError("the policy's tokenizer has no token that ends an answer: set its eos token")

    def texts(self, rollouts: Rollouts) -> list[str]:
        """The text of each answer, without what ends it."""
        rows = zip(rollouts.answer_NT.tolist(), rollouts.mask_NT.tolist(), strict=True)
        ids = [[token for token, kept in zip(*row, strict=True) if kept and token not in self.ends] for row in rows]
        return list(self.tokenizer.batch_decode(ids, skip_special_tokens=True))


class PolicyModel(nn.Module):
    """causal: the policy; with lora a peft model around it. value_head: from states to values, zero at the start (ppo alone).

    The weights that are trained are float32, whatever the others are: an Adam step of 1e-5 is lost in bfloat16. Sampling and
    training run under autocast in the number format of `compute`.
    """

    def __init__(self, causal: Any, tokenizer: Any, *, params: str, compute: Compute, with_values: bool = False) -> None:
        super().__init__()
        self.tokenizer, self.compute = tokenizer, compute
        self.tokens = PolicyTokens(tokenizer, causal)
        mode, number = parse_params(params)
        causal = causal.float().to(compute.device).eval()  # no dropout: samples and log-probabilities are of one policy
        self.reference = None if mode == "lora" else deepcopy(causal).requires_grad_(False)
        self.causal = _trainable(causal, mode, number)
        self.value_head = nn.Linear(causal.config.get_text_config().hidden_size, 1, device=compute.device) if with_values else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.vocabulary = int(causal.get_output_embeddings().weight.shape[0])

    def autocast(self) -> AbstractContextManager[Any]:
        half = self.compute.dtype != torch.float32
        return torch.autocast(self.compute.device.type, self.compute.dtype) if half else nullcontext()

    @contextmanager
    def frozen(self) -> Iterator[Any]:
        """Inside, the policy that training started from; with lora the adapters are off."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.causal.disable_adapter():
                yield self.plain

    @property
    def plain(self) -> Any:
        """The causal model under an adapter, if there is one."""
        return self.causal.get_base_model() if hasattr(self.causal, "get_base_model") else self.causal

    @torch.no_grad()
    def log_probabilities(self, rollouts: Rollouts, temperature: float, *, reference: bool = False) -> torch.Tensor:
        """(N, T) float32 of the policy, or of the frozen one."""
        found = torch.zeros(rollouts.mask_NT.shape, dtype=torch.float32, device=rollouts.answer_NT.device)
        with self.frozen() if reference else nullcontext(self.plain) as causal, self.autocast():
            for places in parts(rollouts, self.vocabulary, shared=sharing(causal, rollouts) is not None):
                some = rollouts.rows(places)
                found[places, : some.answer_NT.shape[1]] = log_probabilities(causal, states_of(causal, some), some, temperature)
        return found

    @torch.no_grad()
    def values(self, rollouts: Rollouts) -> torch.Tensor:
        """(N, T) float32 values of the states from which each token was drawn."""
        assert self.value_head is not None
        found = torch.zeros(rollouts.mask_NT.shape, dtype=torch.float32, device=rollouts.answer_NT.device)
        with self.autocast():
            for places in parts(rollouts, self.vocabulary, shared=sharing(self.plain, rollouts) is not None):
                some = rollouts.rows(places)
                found[places, : some.answer_NT.shape[1]] = self.value_head(states_of(self.plain, some).float())[..., 0].float()
        return found

    def save(self, path: Path) -> None:
        """A plain causal language model; adapters are merged into a copy."""
        causal = deepcopy(self.causal).merge_and_unload() if hasattr(self.causal, "merge_and_unload") else self.causal
        with new_directory(path) as work, no_progress_bars():
            causal.save_pretrained(work)
            self.tokenizer.save_pretrained(work)


def load_policy(policy: str, *, params: str, compute: Compute, with_values: bool = False) -> PolicyModel:
    """The policy of a directory, a hub id, a GGUF file or package:NAME. Raises ValueError for what cannot be loaded."""
    base = resolve_base(policy)
    path = Path(base.path) if Path(base.path).is_dir() else fetch(base.path)
    refuse_pickles(path)
    with no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        attention = (
            attention_for(AutoConfig.from_pretrained(path, trust_remote_code=False)) if compute.device.type == "cpu" else None
        )
        causal = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=False, attn_implementation=attention
        )
    refuse_broken_weights(causal, policy)
    return PolicyModel(causal, tokenizer, params=params, compute=compute, with_values=with_values)


def _trainable(causal: Any, mode: str, number: int) -> Any:
    if mode == "full":
        return causal.requires_grad_(True)
    causal.requires_grad_(False)
    if mode == "blocks":
        layers = causal.base_model.layers
        if not 1 <= number <= len(layers):
            raise ValueError(f"params blocks:{number}: the policy has {len(layers)} blocks")
        for layer in layers[-number:]:
            layer.requires_grad_(True)
        return causal
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("--params lora needs peft: pip install '.[lora]' in Assay's clone") from error
    return get_peft_model(causal, LoraConfig(r=number, lora_alpha=2 * number, target_modules="all-linear", bias="none"))


def optimizer_of(model: PolicyModel, settings: PolicySettings) -> torch.optim.Optimizer:
    """AdamW without decay; the value head has a rate of its own. `full_lr` is what the warm-up goes to."""
    values = set() if model.value_head is None else set(model.value_head.parameters())
    policy = [one for one in model.causal.parameters() if one.requires_grad]
    groups = [{"params": policy, "lr": settings.learning_rate, "full_lr": settings.learning_rate}]
    if values:
        groups.append({"params": list(values), "lr": settings.value_rate, "full_lr": settings.value_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-8)
