"""The parts of gpu.py that train a policy: `assay rl train`'s loop, and TRL's RLOO trainer at equal settings."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_bench import Bench, tokenizer_of, words

SAMPLES, STEPS, BETA, RATE = 8, 3, 0.05, 1e-7


def policy(bench: Bench) -> None:
    """Tokens a second of a step of rloo with a frozen reference, without its first, what the step's seconds went to, and memory."""
    from assay.data.prompt_rows import Prompt
    from assay.messages import Message
    from assay.rl.kl_control import KLSettings
    from assay.rl.loop.loop_settings import PolicySettings
    from assay.rl.loop.train_policy import PolicyRun, train_policy
    from assay.scorers.rules import rule_scorer

    s = bench.size
    prompts = [Prompt(messages=(Message("user", text),), id=f"p{i}") for i, text in enumerate(asked(bench))]
    settings = PolicySettings(
        steps=STEPS + 1, prompts=s.prompts, samples=SAMPLES, max_tokens=s.answer, learning_rate=RATE, warmup=1,
        kl=KLSettings(beta=BETA), evaluate_every=STEPS + 1, save_every=STEPS + 1, eval_prompts=1,
    )  # fmt: skip
    run = PolicyRun(
        policy=str(saved(bench)), scorer=rule_scorer(lambda given: worth([one.response or "" for one in given])),
        scorer_name="digest", prompts=prompts[1:], held_out=prompts[:1], out=bench.work / "run", settings=settings,
        against_past=False, device=str(bench.device), dtype="bfloat16" if bench.half == torch.bfloat16 else "float32",
    )  # fmt: skip
    rows = train_policy(run).rows[1:]
    seconds = {name: sum(row["seconds"][name] for row in rows) for name in rows[0]["seconds"]}
    tokens = sum(row["tokens"] for row in rows) * s.prompts * SAMPLES
    bench.keep(tokens_per_second=tokens / seconds["all"], seconds_per_step=seconds["all"] / len(rows), peak_gb=bench.peak_gb())
    bench.keep(**{f"share_{name}": one / seconds["all"] for name, one in seconds.items() if name != "all"})


def policy_trl(bench: Bench) -> None:
    """The same of TRL's RLOOTrainer, with transformers' own generation."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback

    s, marks, drawn = bench.size, list[float](), list[float]()

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            bench.sync()
            marks.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            if logs and "completions/mean_length" in logs:
                drawn.append(logs["completions/mean_length"] * s.prompts * SAMPLES)
                bench.sync()
                seconds, tokens = time.perf_counter() - marks[min(1, len(marks) - 1)], sum(drawn[1:])
                if tokens:
                    bench.keep(
                        tokens_per_second=tokens / seconds, seconds_per_step=seconds / (len(drawn) - 1), peak_gb=bench.peak_gb()
                    )

    tokenizer = tokenizer_of(s)
    tokenizer.padding_side = "left"
    arguments = trl.RLOOConfig(
        output_dir=str(bench.work / "trl"), per_device_train_batch_size=s.prompts * SAMPLES, num_generations=SAMPLES,
        max_completion_length=s.answer, max_steps=STEPS + 1, learning_rate=RATE, beta=BETA, bf16=bench.half == torch.bfloat16,
        use_cpu=bench.device.type == "cpu", gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1,
        disable_tqdm=True,
    )  # fmt: skip
    trl.RLOOTrainer(
        model=AutoModelForCausalLM.from_pretrained(saved(bench), dtype=torch.float32),
        reward_funcs=[lambda completions, **_: worth([one[0]["content"] for one in completions])],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in asked(bench)[1:]]}),
        processing_class=tokenizer,
        callbacks=[Clock()],
    ).train()
    bench.keep(trl=trl.__version__)


def asked(bench: Bench) -> list[str]:
    return [words(bench, bench.size.prompt) for _ in range(bench.size.prompts * (STEPS + 2) + 1)]


def worth(texts: Sequence[str]) -> list[float]:
    """A number of each text that nothing can learn."""
    return [zlib.crc32(text.encode()) % 1000 / 1000 for text in texts]


def saved(bench: Bench) -> Path:
    """A causal model of random weights, with its tokenizer."""
    from transformers import LlamaForCausalLM

    path = bench.work / "policy"
    torch.manual_seed(0)
    config = bench.config()
    config.tie_word_embeddings = True
    with torch.device(bench.device):
        causal = LlamaForCausalLM(config)
    causal.to(torch.float32).save_pretrained(path)
    tokenizer_of(bench.size).save_pretrained(path)
    return path
