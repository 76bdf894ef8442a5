"""The contracts of remote engines: what is sent, what is read, and a message with a fix for everything else."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from assay.errors import EngineError
from assay.scorers.http.engine_api import Engine, ask_engine, endpoint
from fake_engine import fake_engine

IDS, TEXTS = [[1, 2, 3], [4, 5]], ["one", "two"]


@pytest.fixture(autouse=True)
def without_a_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


CONTRACTS: list[tuple[Engine, str, str, dict[str, Any], Any]] = [
    (
        "vllm",
        "",
        "/classify",
        {"input": IDS, "use_activation": False, "add_special_tokens": False},
        {"data": [{"index": 0, "label": "reward", "probs": [1.5], "num_classes": 1}, {"index": 1, "probs": [-2.0]}]},
    ),
    (
        "vllm",
        "/pooling",
        "/pooling",
        {"input": IDS, "use_activation": False, "add_special_tokens": False, "task": "classify"},
        {"data": [{"index": 0, "object": "pooling", "data": [1.5]}, {"index": 1, "object": "pooling", "data": [[-2.0]]}]},
    ),
    ("sglang", "", "/classify", {"input_ids": IDS}, [{"embedding": [1.5], "meta_info": {"id": "a"}}, {"embedding": [-2]}]),
    (
        "tei",
        "/",
        "/predict",
        {"inputs": [["one"], ["two"]], "raw_scores": True, "truncate": False},
        [[{"score": 1.5, "label": "reward"}], [{"score": -2.0, "label": "reward"}]],
    ),
    (
        "openrlhf",
        "",
        "/get_reward",
        {"query": TEXTS, "prompts": TEXTS, "labels": ["", ""]},
        {"rewards": [1.5, -2.0], "scores": [0.8, 0.1], "extra_logs": {}},
    ),
]


@pytest.mark.parametrize(("engine", "given", "path", "body", "reply"), CONTRACTS, ids=lambda value: str(value)[:10])
def test_each_contract_is_spoken(engine, given, path, body, reply):
    seen = []

    def answer(*request: Any) -> tuple[int, Any]:
        seen.append(request)
        return 200, reply

    with fake_engine(answer) as url:
        rewards = ask_engine(url + given, IDS, TEXTS, engine=engine)
    assert seen == [(path, body)]
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [1.5, -2.0]


def test_rows_are_put_in_the_order_of_their_index_and_the_model_is_named():
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["model"] == "rm"
        return 200, {"data": [{"index": 1, "probs": [-2.0]}, {"index": 0, "probs": [1.5]}]}

    with fake_engine(answer) as url:
        assert ask_engine(url, IDS, TEXTS, served_name="rm").tolist() == [1.5, -2.0]


REPLIES = {
    "several labels": (
        200,
        {"data": [{"probs": [0.1, 0.9]}, {"probs": [0.2, 0.8]}]},
        "answered 2 numbers for text 0, not one reward",
    ),
    "token by token": (
        200,
        {"data": [{"data": [[1.0], [2.0]]}, {"data": [[3.0]]}]},
        "answered 2 numbers for text 0, not one reward",
    ),
    "none": (200, {"data": [{"label": "x"}, {"label": "y"}]}, "answered 0 numbers for text 0"),
    "one row": (200, [1.5], "answered 1 rewards to 2 texts: check --engine"),
    "a sentence": (200, {"detail": "ok"}, "not a list of rewards: check --engine and the path"),
    "a word": (200, ["high", "low"], "answered 'high' for text 0, which is no number"),
    "null": (200, {"data": [{"probs": [1.0]}, {"probs": [None]}]}, "answered None for text 1, which is no number"),
    "infinity": (200, b"[1.0, Infinity]", "answered inf for text 1: the engine's number format overflows"),
    "a page": (200, b"<html>hello</html>", "did not answer with JSON"),
    "400": (400, {"error": "maximum context length is 8"}, "answered 400 .*maximum context length is 8.*max_length"),
    "401": (401, {"error": "Unauthorized"}, "the engine asks for a key"),
    "404": (404, {"detail": "Not Found"}, "answered 404 .*serve the artifact as a classifier"),
    "500": (500, b"", "answered 500 .*: look at the engine's own log"),
}


@pytest.mark.parametrize("what", REPLIES)
def test_whatever_else_is_answered_is_an_engine_error_that_names_the_url(what):
    status, reply, message = REPLIES[what]
    with fake_engine(lambda path, body: (status, reply)) as url, pytest.raises(EngineError, match=message) as raised:
        ask_engine(url, IDS, TEXTS)
    assert f"{url}/classify" in str(raised.value)


def test_an_engine_that_does_not_answer_in_time_is_an_engine_error():
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.5)
        return 200, []

    with fake_engine(answer) as url, pytest.raises(EngineError, match=r"gave no answer in 0\.1 s"):
        ask_engine(url, IDS, TEXTS, timeout=0.1)


def test_an_engine_that_is_not_there_is_an_engine_error():
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:9/classify cannot be reached"):
        ask_engine("http://127.0.0.1:9", IDS, TEXTS)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/classify", "", "http://", "/classify"])
def test_what_is_no_url_is_a_caller_s_mistake(url):
    with pytest.raises(ValueError, match="is no URL of an engine"):
        ask_engine(url, IDS, TEXTS)


def test_a_path_of_the_url_s_own_is_kept():
    assert endpoint("http://host:8000", "vllm") == "http://host:8000/classify"
    assert endpoint("https://host/v1/", "vllm") == "https://host/classify", "vLLM has no /v1/classify"
    assert endpoint("http://host/models/rm/classify?key=1", "sglang") == "http://host/models/rm/classify?key=1"
