"""`assay serve` as a process: it drains and exits 0, does not hang on a dead engine, does not listen to everybody by accident."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest

import assay
from assay.cli import main
from assay.commands.swap import Config as SwapConfig
from assay.commands.swap import swap, swap_rows
from assay.serve.build import make_service
from assay.serve.serve_config import ServeConfig
from served_process import process
from serving import sent

TOKEN, ADMIN = "a-token-of-those-who-ask", "an-admin-token-for-models"
SLOW = """
import sys, time
from serving import Lengths, service_of
from assay.errors import AssayError
from assay.serve.server import run_service

class Slow(Lengths):
    def score(self, completions):
        print("scoring", flush=True)
        time.sleep(float(sys.argv[1]))
        return super().score(completions)

def say(label, text):
    print(label, text, file=sys.stderr, flush=True)

try:
    run_service(service_of(Slow()), host="127.0.0.1", port=0, drain_seconds=float(sys.argv[2]), say=say)
except AssayError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
"""


def slow(seconds: float, drain: float = 20.0):
    return process([sys.executable, "-c", SLOW, str(seconds), str(drain)])


def items(*texts: str) -> dict:
    return {"items": [{"prompt": "q", "response": text} for text in texts]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_answers_what_was_asked_and_exits_with_0(kind):
    replies: list[httpx2.Response] = []
    with slow(1.0) as service:
        thread = threading.Thread(target=lambda: replies.append(service.post("/v1/score", items("abc"))))
        thread.start()
        assert service.popen.stdout is not None
        assert service.popen.stdout.readline() == "scoring\n"
        service.popen.send_signal(kind)
        assert service.end() == 0
        thread.join(20)
    assert replies[0].json()["rewards"][0]["value"] == 3.0
    assert any(line.startswith("stopped") for line in service.errors)


@pytest.mark.slow
def test_a_dead_engine_ends_the_process_with_3_and_the_client_hears_of_it():
    with slow(0.0) as service:
        reply = service.post("/get_reward", {"query": ["deadly"]})
        assert reply.status_code == 503
        assert service.end() == 3
    text = "".join(service.errors)
    assert "the engine of rm has ended" in text


def test_an_engine_that_is_stuck_does_not_keep_the_process_from_ending():
    with slow(600.0, drain=1.0) as service:
        reply = service.post("/v1/score", items("abc"), headers={"X-Request-Timeout": "0.3"})
        assert reply.status_code == 504
        service.popen.send_signal(signal.SIGTERM)
        assert service.end() == 0


def test_dropped_clients_cost_nothing_and_leave_the_service_well():
    with slow(0.3) as service:
        for _ in range(5):
            with sent(service.url, items("gone")):
                pass
        assert service.post("/v1/score", items("abc")).json()["rewards"][0]["value"] == 3.0
        assert httpx2.get(f"{service.url}/readyz", trust_env=False).status_code == 200


@pytest.mark.slow
def test_the_command_serves_a_trained_model_changes_it_and_is_a_scorer(trained_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    command = [sys.executable, "-m", "assay.cli", "serve", f"rm={trained_run.path}", "--port", "0", "--device", "cpu"]
    more = ["--dtype", "float32", "--models-dir", str(trained_run.path), "--log-text"]
    with process([*command, *more], ASSAY_ADMIN_TOKENS=ADMIN) as service:
        completions = [assay.Completion(messages="Tell me about egg 1", response=f"It is {word}.") for word in ("water", "lazy")]
        here = assay.load(trained_run.path, dtype="float32", device="cpu")
        there = assay.load(service.url)
        np.testing.assert_allclose(there.score(completions).value, here.score(completions).value, atol=here.tolerance)
        assert there.fingerprint == here.fingerprint
        closed_text = f"a text{here.scorer.closing}"
        reply = service.post("/classify", {"input": closed_text})
        assert reply.json()["data"][0]["probs"][0] == service.post("/get_reward", {"query": closed_text}).json()["rewards"][0]
        rows = [{"prompt": c.messages[0].content, "response": c.response} for c in completions]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["score", service.url, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 0
        scored = [json.loads(line)["value"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        np.testing.assert_allclose(scored, here.score(completions).value, atol=here.tolerance)
        monkeypatch.setenv("ASSAY_ADMIN_TOKENS", ADMIN)
        assert main(["swap", service.url, "load", "--artifact", "artifact", "--as-it-is"]) == 0
        assert main(["swap", service.url, "promote"]) == 0
        assert "rm: previous" in capsys.readouterr().out
        (told,) = swap(SwapConfig(url=service.url, action="list"))
        assert [row[0] for row in swap_rows([told])] == ["rm: current", "rm: previous"]
        assert main(["swap", service.url, "shadow"]) == 3
        assert "has no candidate" in capsys.readouterr().err
        service.popen.send_signal(signal.SIGTERM)
        assert service.end() == 0


def test_an_open_address_demands_tokens(trained_run, tmp_path, monkeypatch):
    monkeypatch.delenv("ASSAY_TOKENS", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ValueError, match="lets other machines ask: give --token-file or ASSAY_TOKENS"):
            make_service(ServeConfig(models=(str(trained_run.path),), host=host))
    monkeypatch.setenv("ASSAY_TOKENS", f"{TOKEN}, {TOKEN}-2")
    (tmp_path / "tokens").write_text(f"{TOKEN}-3\n")
    config = ServeConfig(models=(str(trained_run.path),), host="0.0.0.0", token_file=tmp_path / "tokens", device="cpu")
    service = make_service(config)
    service.close(5)
    assert [service.keys.allow(token) for token in (TOKEN, TOKEN + "-2", TOKEN + "-3", "", None)] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ()}, "no model to serve"),
        ({"models": ("a/rm", "b/rm")}, "two models are named rm"),
        ({"models": ("rm=nowhere",)}, "neither an artifact"),
        ({"models": ("./a b",)}, "cannot be a model's name"),
        ({"models": ("http://127.0.0.1:1/t/secret",)}, r"http://127.0.0.1:1/t/\.\.\. has no name to be served under"),
        ({"models": ("rm=runs/lr=3e-4",)}, "runs/lr=3e-4 is neither an artifact"),
        ({"models": ("rm",), "token_file": Path("nowhere")}, "--token-file nowhere does not exist"),
        ({"models": ("rm",), "max_queued": 10}, "such a request never fits"),
        ({"models": ("rm",), "timeout": 0.0}, "timeout_seconds 0.0 must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, monkeypatch):
    monkeypatch.delenv("ASSAY_TOKENS", raising=False)
    with pytest.raises(ValueError, match=message):
        make_service(ServeConfig(**settings))


def test_what_swap_shows_has_scale_warnings_and_the_shadow_in_it():
    loaded = {"source": "v2", "fingerprint": "f", "scale": {"factor": 0.5, "warnings": ["agreement: both order 60% alike"]}}
    shadow = {"n": 1000, "n_scored": 999, "rms_difference": 0.25, "flips": 3, "pairs": 40}
    old = {"source": "v1", "fingerprint": "e", "scale": None}
    assert swap_rows([{"name": "rm", "current": old, "candidate": loaded, "previous": None, "shadow": shadow}]) == [
        ("rm: current", "v1", "e"),
        ("rm: candidate", "v2", "f; rewards times 0.5"),
        ("rm: candidate", "warn", "agreement: both order 60% alike"),
        ("rm: shadow", "0.25", "root mean square difference; 999 of 1,000 rewards, 3 of 40 pairs flip"),
    ]


def test_swap_refuses_what_makes_no_sense(monkeypatch):
    monkeypatch.delenv("ASSAY_ADMIN_TOKENS", raising=False)
    with pytest.raises(ValueError, match="load needs --artifact"):
        swap(SwapConfig(url="http://127.0.0.1:9", action="load"))
    with pytest.raises(ValueError, match="no admin token"):
        swap(SwapConfig(url="http://127.0.0.1:9", action="list"))
    monkeypatch.setenv("ASSAY_ADMIN_TOKENS", ADMIN)
    with pytest.raises(ValueError, match="is no URL"):
        swap(SwapConfig(url="127.0.0.1:9", action="list"))


def test_thelistener_is_of_a_kind_that_sends_at_once():
    from assay.serve.server import listen

    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "else asyncio leaves Nagle's algorithm on: 40 ms for a lone caller"
        with pytest.raises(OSError, match="choose another --port"):
            listen("127.0.0.1", listener.getsockname()[1])
