"""The plain handler of the load benchmark: FastAPI, plain transformers, one forward a request.

python benchmarks/serve_plain.py WORK DTYPE {one,any}: one forward at a time behind a lock, or as many as FastAPI's threads.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Turn(BaseModel):
    role: str
    content: str


class Sample(BaseModel):
    messages: list[Turn]


def build(work: Path, dtype: torch.dtype, at_once: str) -> FastAPI:
    """The application that most write first."""
    tokenizer = AutoTokenizer.from_pretrained(work / "artifact")
    model: Any = AutoModelForSequenceClassification.from_pretrained(str(work / "artifact"), dtype=dtype).eval()
    turn: Any = threading.Lock() if at_once == "one" else contextlib.nullcontext()
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/score")
    def score(sample: Sample) -> dict[str, float]:
        messages = [message.model_dump() for message in sample.messages]
        with turn, torch.inference_mode():
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            return {"value": float(model(**inputs, use_cache=False).logits[0, 0])}

    return app


if __name__ == "__main__":
    cli.keep_freed_memory()
    application = build(Path(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3])
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False)).run(sockets=[listener])
