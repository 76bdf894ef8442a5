"""OpenRLHF's rollout code: it has an answer generated (here: a given one), and fetches its reward from a URL."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from asked import Seen, read_cases, without_engine
from transformers import AutoTokenizer

without_engine("openrlhf", "openrlhf.utils")
from openrlhf.utils.agent import SingleTurnAgentExecutor  # noqa: E402

cases, seen = read_cases(), Seen("openrlhf")
tokenizer = AutoTokenizer.from_pretrained(cases.base)


class Engine:
    """Generates what it was told to, up to the end token, as an engine does."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    async def generate(self, prompt_token_ids, sampling_params, **others):
        ids = tokenizer(self.answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=None, finish_reason="stop", routed_experts=None)])


async def rewarded(turns) -> float:
    prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    sampling = SimpleNamespace(max_tokens=256, logprobs=None)
    executor = SingleTurnAgentExecutor(f"{cases.url}/get_reward")
    found = await executor.execute(prompt, "4", sampling, 1024, tokenizer, Engine(turns[-1]["content"]))
    reward = found["reward"]
    return float(reward[0] if isinstance(reward, list) else reward)


values = [asyncio.run(rewarded(turns)) for turns in cases.conversations]
seen.add("SingleTurnAgentExecutor.execute", "/get_reward", "answers", values)
seen.tell()
