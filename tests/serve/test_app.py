"""The service over HTTP: the same rewards as without it, never a made-up one, and a clear status for everything else."""

from __future__ import annotations

import json
import logging
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest

from assay.records import Completion
from assay.scorers.ensemble import Combination
from assay.scorers.local import LocalScorer
from assay.serve.middleware import Keys, Limits
from serving import Lengths, sent, service_of, serving, wait_for
from tiny import tiny_model, tiny_renderer

TOKEN = "a-token-of-those-who-ask"


def item(text: str, prompt: str = "question") -> dict:
    return {"prompt": prompt, "response": text}


def ask(client: httpx2.Client, *texts: str, path: str = "/v1/score", **more) -> httpx2.Response:
    return client.post(path, json={"items": [item(text) for text in texts]}, **more)


@pytest.fixture(scope="module")
def scorer() -> LocalScorer:
    return LocalScorer(tiny_model(num_members=3), tiny_renderer(), identity="tiny", combination=Combination())


@pytest.fixture(scope="module")
def client(scorer):
    with serving(service_of(scorer)) as client:
        yield client


ITEMS = [
    {"prompt": "How do I boil an egg?", "response": "Put it in water.", "id": "a"},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "response": "Hello."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    {"text": "User: Hi Assistant: Hello."},
    {"token_ids": [1, 40, 50, 60, 2]},
    {"prompt": "Hi", "response": ""},
    {"prompt": "Hi"},
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"text": "a", "token_ids": [1]},
    {"token_ids": [99999]},
    {"text": "not Unicode: \ud800"},
]
ANSWER = Completion(messages="Hi", response="Hello.")
COMPLETIONS = [
    Completion(messages="How do I boil an egg?", response="Put it in water."),
    Completion(messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}), response="Hello."),
    ANSWER,
    Completion(text="User: Hi Assistant: Hello."),
    Completion(token_ids=(1, 40, 50, 60, 2)),
]
REASONS = [
    "the response is empty",
    "got none",
    "do not end in an answer",
    "got ['text', 'token_ids']",
    "the vocabulary is",
    "not valid Unicode",
]


def test_every_form_of_completion_gets_the_reward_that_it_gets_without_a_service(client, scorer):
    reply = client.post("/v1/score", content=json.dumps({"items": ITEMS}), headers={"Content-Type": "application/json"})
    assert reply.status_code == 200
    body = reply.json()
    assert body["model"] == "rm"
    assert body["fingerprint"] == reply.headers["X-Assay-Fingerprint"] == scorer.fingerprint
    rewards, expected = body["rewards"], scorer.score(COMPLETIONS)
    np.testing.assert_allclose([row["value"] for row in rewards[:5]], expected.value, atol=scorer.tolerance)
    np.testing.assert_allclose([row["std"] for row in rewards[:5]], expected.std, atol=scorer.tolerance)
    assert [row["id"] for row in rewards] == ["a"] + [""] * 10
    for row, reason in zip(rewards[5:], REASONS, strict=True):
        assert row["value"] is None
        assert reason in row["error"]
    assert client.post("/v1/score", json={"items": []}).json()["rewards"] == []


def test_single_requests_that_arrive_together_are_scored_together_and_right(scorer):
    completions = [Completion(messages=f"question {i % 4}", response=f"answer {i} it is") for i in range(32)]
    expected = scorer.score(completions).value
    with serving(service_of(scorer, linger_seconds=0.05)) as client, ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda c: ask_one(client, c), completions))
        figures = client.get("/metrics").text
    np.testing.assert_allclose(replies, expected, atol=scorer.tolerance)
    labels = f'{{model="rm",fingerprint="{scorer.fingerprint}"}}'
    assert figure(figures, f"assay_batch_items_sum{labels}") == 32
    assert figure(figures, f"assay_batch_items_count{labels}") < 16


def ask_one(client: httpx2.Client, completion: Completion) -> float:
    reply = client.post("/v1/score", json={"items": [item(str(completion.response), completion.messages[0].content)]})
    return reply.json()["rewards"][0]["value"]


def figure(text: str, series: str) -> float:
    (found,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found)


def test_a_full_queue_is_429_with_a_time_to_come_again():
    scorer = Lengths(is_open=False)
    with serving(service_of(scorer, max_queued=1)) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, "first")
        wait_for(scorer.has_begun.is_set)
        second = pool.submit(ask, client, "second")
        wait_for(lambda: figure(client.get("/metrics").text, 'assay_queue_items{model="rm"}') == 1)
        refused = ask(client, "third")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["type"] == "RateLimitError"
        scorer.gate.set()
        assert [future.result().json()["rewards"][0]["value"] for future in (first, second)] == [5.0, 6.0]


@pytest.mark.parametrize("said", ["body", "header", "service"])
def test_at_the_deadline_it_is_504_and_the_work_is_dropped(said):
    scorer = Lengths(is_open=False)
    limits = Limits(timeout_seconds=0.2 if said == "service" else 60)
    with serving(service_of(scorer, limits=limits)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "first", headers={"X-Request-Timeout": "20"})
        wait_for(scorer.has_begun.is_set)
        body = {"items": [item("late")], **({"timeout": 0.2} if said == "body" else {})}
        headers = {"X-Request-Timeout": "0.2"} if said == "header" else {}
        late = client.post("/v1/score", json=body, headers=headers)
        assert late.status_code == 504
        assert "deadline" in late.json()["error"]["message"]
        scorer.gate.set()
        assert first.result().status_code == (504 if said == "service" else 200)
        assert ask(client, "next").status_code == 200
    assert ["late"] not in scorer.batches


def test_a_client_that_went_away_costs_no_forward():
    scorer = Lengths(is_open=False)
    with serving(service_of(scorer)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "first")
        wait_for(scorer.has_begun.is_set)
        with sent(str(client.base_url), {"items": [item("gone")]}):
            wait_for(lambda: figure(client.get("/metrics").text, 'assay_queue_items{model="rm"}') == 1)
        wait_for(lambda: 'status="499"' in client.get("/metrics").text)
        scorer.gate.set()
        assert first.result().status_code == 200
        assert ask(client, "next").json()["rewards"][0]["value"] == 4.0
        assert figure(client.get("/metrics").text, 'assay_dropped_total{model="rm"}') == 1
    assert scorer.batches == [["first"], ["next"]]


def test_an_engine_that_dies_fails_readiness_and_is_told():
    told = []
    with serving(service_of(Lengths()), on_failure=told.append) as client:
        assert client.get("/readyz").status_code == 200
        assert ask(client, "deadly").status_code == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert ask(client, "next").status_code == 503
        wait_for(lambda: told)
    assert told == ["the engine of rm has ended"]


def test_an_engine_that_is_stuck_counts_as_dead():
    scorer, told = Lengths(is_open=False), []
    limits = Limits(stall_seconds=0.1, timeout_seconds=0.3)
    with serving(service_of(scorer, limits=limits), on_failure=told.append) as client:
        assert ask(client, "first").status_code == 504
        assert client.get("/readyz").status_code == 503
        wait_for(lambda: told)
        assert "is in one batch for" in told[0]


def test_tokens_open_the_door_as_a_header_or_in_the_path_and_stand_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    with serving(service_of(Lengths(), keys=Keys.of([TOKEN, TOKEN + "-2"]))) as client:
        for headers, path, status in (
            ({}, "/v1/score", 401),
            ({"Authorization": f"Bearer {TOKEN}"}, "/v1/score", 200),
            ({"Authorization": f"bearer {TOKEN}-2"}, "/v1/score", 200),
            ({"Authorization": f"Bearer {TOKEN}x"}, "/v1/score", 401),
            ({"Authorization": f"Basic {TOKEN}"}, "/v1/score", 401),
            ({"Authorization": "Bearer"}, "/v1/score", 401),
            ({}, f"/t/{TOKEN}/v1/score", 200),
            ({}, f"/t/{TOKEN}/m/rm/v1/score", 200),
            ({}, f"/t/{TOKEN}/m/none/v1/score", 404),
            ({}, f"/t/{TOKEN}-3/v1/score", 401),
            ({}, f"/m/rm/t/{TOKEN}/v1/score", 401),
            ({}, f"/t/{TOKEN}", 401),
            ({"Authorization": f"Bearer {TOKEN}"}, f"/t/{TOKEN}/t/{TOKEN}/v1/score", 404),
            ({"Authorization": f"Bearer {TOKEN}"}, f"/{TOKEN}", 404),
        ):
            assert ask(client, "abc", path=path, headers=headers).status_code == status, (headers, path)
        for path in ("/v1/info", "/metrics", "/openapi.json", "/docs", "/nothing"):
            assert client.get(path).status_code == 401
        for path in ("/healthz", "/readyz"):
            assert client.get(path).status_code == 200
    assert "/v1/score 200" in caplog.text
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]  # the client logs its URLs
    assert not [line for line in ours if TOKEN in line]


@pytest.mark.parametrize("token", ["short", "has a space in its middle", "slash/slash/slash/slash"])
def test_a_token_that_is_weak_or_cannot_stand_in_a_path_is_refused(token):
    with pytest.raises(ValueError, match="a token"):
        Keys.of([token])


def test_requests_beyond_the_limits_are_refused_before_they_are_scored():
    scorer = Lengths()
    limits = Limits(max_body_bytes=2000, max_items=3, max_text=100, body_seconds=0.3)
    with serving(service_of(scorer, limits=limits)) as client:
        assert ask(client, "x" * 2000).status_code == 413
        assert client.post("/v1/score", content=(b"x" * 500 for _ in range(5))).status_code == 413
        assert "4 completions in one request, 3 are allowed" in ask(client, *"abcd").json()["error"]["message"]
        assert ask(client, *"abcd").status_code == ask(client, "x" * 101).status_code == 413
        assert client.post("/get_reward", json={"query": ["x" * 101]}).status_code == 413
        assert ask(client, *"abc").status_code == 200
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            connection.settimeout(20)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    assert scorer.batches == [["a", "b", "c"]]


def test_bodies_of_all_requests_together_are_bounded():
    scorer = Lengths(is_open=False)
    with serving(service_of(scorer, limits=Limits(max_held_bytes=1500))) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "x" * 1000)
        wait_for(scorer.has_begun.is_set)
        assert ask(client, "y" * 1000).status_code == 429
        assert ask(client, "deep" * 3, headers={"X-Request-Timeout": "0.05"}).status_code == 504
        scorer.gate.set()
        assert first.result().status_code == 200
        assert ask(client, "y" * 1000).status_code == 200


WRONG = {
    "no JSON": (b"{", 422),
    "not UTF-8": (b'{"items": [{"text": "\xff"}]}', 400),
    "a number": (b"1", 422),
    "nothing": (b"", 422),
    "other types": (b'{"items": [{"prompt": 1, "response": []}]}', 422),
    "a role": (b'{"items": [{"prompt": [{"role": "wizard", "content": "secret"}], "response": "a"}]}', 422),
    "deep": (b'{"items": ' + b"[" * 100_000, 400),
    "no time": (b'{"items": [], "timeout": -1}', 422),
    "a model": (b'{"items": [], "model": "none"}', 404),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_request_is_refused_without_its_text_or_a_stack_trace(what, client):
    content, status = WRONG[what]
    reply = client.post("/v1/score", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["code"] == reply.status_code
    assert "Traceback" not in reply.text
    assert "secret" not in reply.text


def test_unknown_paths_and_methods_are_refused_in_the_same_form(client):
    assert client.get("/nothing").json()["error"] == {"message": "Not Found", "type": "NotFoundError", "param": None, "code": 404}
    assert client.get("/v1/score").status_code == 405


class Leaky(Lengths):
    def score(self, completions):
        raise RuntimeError(f"cannot take {completions[0].response}")


def test_texts_stand_in_the_log_only_when_that_is_asked_for(caplog):
    caplog.set_level(logging.DEBUG, logger="assay.serve")
    with serving(service_of(Leaky())) as client:
        (row,) = ask(client, "a secret").json()["rewards"]
    assert row == {"id": "", "value": None, "error": "the scorer failed on this item (RuntimeError)"}
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    with serving(service_of(Lengths(), log_text=True)) as client:
        ask(client, "a secret")
    assert "a secret" in caplog.text


def test_metrics_count_what_was_asked_and_what_came_of_it():
    with serving(service_of(Lengths())) as client:
        for texts in (("a", "abc"), ("",), ("abcde",)):
            ask(client, *texts)
        client.post("/get_reward", json={"query": [""]})
        reply = client.get("/metrics")
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = reply.text
    scored, unscored = ('{route="/v1/score",status="200",model="rm"', '{route="/get_reward",status="422",model="rm"')
    assert figure(text, f"assay_requests_total{scored}}}") == 3
    assert figure(text, f"assay_requests_total{unscored}}}") == 1
    assert figure(text, f"assay_request_seconds_count{scored}}}") == 3
    assert figure(text, f'assay_request_seconds_bucket{scored},le="+Inf"}}') == 3
    assert figure(text, 'assay_rewards_total{model="rm",fingerprint="lengths 1.0"}') == 5
    assert figure(text, 'assay_rewards_failed_total{model="rm",fingerprint="lengths 1.0"}') == 2
    assert figure(text, 'assay_reward_mean{model="rm"}') == 3.0
    assert figure(text, 'assay_reward_std{model="rm"}') == 2.0
    assert figure(text, 'assay_reward_nan_rate{model="rm"}') == pytest.approx(0.4)
    assert figure(text, 'assay_engine_up{model="rm"}') == 1
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .+|[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? \S+', line), line


def test_a_body_refused_while_it_is_sent_does_not_cost_the_answer():
    limits = Limits(max_body_bytes=1000)

    def refused(client: httpx2.Client) -> int:
        return client.post("/v1/score", content=(b"x" * 65_536 for _ in range(30))).status_code

    with serving(service_of(Lengths(), limits=limits)) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(refused, [client] * 40)) == [413] * 40


def test_models_are_chosen_by_the_body_or_the_path_and_described():
    with serving(service_of(Lengths(), Lengths(factor=2))) as client:
        body = {"items": [item("abc")]}
        assert client.post("/v1/score", json={**body, "model": "other"}).json()["rewards"][0]["value"] == 6.0
        assert client.post("/m/other/v1/score", json=body).json()["model"] == "other"
        assert client.post("/m/other/get_reward", json={"query": ["abcd"]}).json()["rewards"] == [8.0]
        assert client.post("/v1/score", json=body).json()["rewards"][0]["value"] == 3.0
        assert client.post("/m/none/v1/score", json=body).status_code == 404
        told = client.get("/v1/info").json()
        assert [model["name"] for model in told["models"]] == ["rm", "other"]
        assert told["models"][1]["fingerprint"] == "lengths 2"
        assert told["limits"]["max_items"] == 1024
        assert {"/v1/score", "/get_reward", "/classify", "/predict"} <= set(told["contracts"])
        assert [model["name"] for model in client.get("/m/other/v1/info").json()["models"]] == ["other"]


def test_latency_of_one_caller_has_no_waiting_in_it():
    with serving(service_of(Lengths(), linger_seconds=0.5)) as client:
        ask(client, "first")
        start = time.monotonic()
        ask(client, "second")
        assert time.monotonic() - start < 0.4


@pytest.mark.slow
def test_among_faults_of_every_kind_no_request_is_lost_and_no_reward_is_wrong(scorer):
    """Eight callers; a third of what they send is broken, too large, unscorable, or given up."""
    completions = [Completion(messages=f"question {i % 5}", response=f"answer {i} it is") for i in range(40)]
    expected = scorer.score(completions).value

    def call(seed: int) -> list[str]:
        rng, came = random.Random(seed), []
        for _ in range(40):
            kind = rng.choice(["right", "right", "right", "right", "broken", "types", "huge", "empty", "gone", "late"])
            chosen = rng.sample(range(40), rng.randint(1, 3))
            body = {"items": [item(str(completions[i].response), completions[i].messages[0].content) for i in chosen]}
            if kind == "gone":
                with sent(str(client.base_url), body):
                    continue
            if kind in ("huge", "empty", "types"):
                body["items"][-1]["response"] = {"huge": "x" * 3000, "empty": " ", "types": 5}[kind]
            content = json.dumps(body)[: -1 if kind == "broken" else None]
            headers = {"Content-Type": "application/json", **({"X-Request-Timeout": "0.001"} if kind == "late" else {})}
            reply = client.post("/v1/score", content=content, headers=headers)
            statuses = {"right": {200}, "empty": {200}, "broken": {422}, "types": {422}, "huge": {413}, "late": {200, 504}}
            assert reply.status_code in statuses[kind], (kind, reply.text)
            if reply.status_code == 200:
                rows = reply.json()["rewards"]
                known = list(zip(rows, chosen, strict=True))[: -1 if kind == "empty" else None]
                np.testing.assert_allclose(
                    [row["value"] for row, _ in known], [expected[i] for _, i in known], atol=scorer.tolerance
                )
                assert kind != "empty" or (rows[-1]["value"] is None and rows[-1]["error"])
            came.append(kind)
        return came

    service = service_of(scorer, limits=Limits(max_text=2000), linger_seconds=0.001)
    with serving(service) as client, ThreadPoolExecutor(8) as pool:
        came = [kind for kinds in pool.map(call, range(8)) for kind in kinds]
        assert len(set(came)) == 6
        batcher = service.models["rm"].current.batcher
        wait_for(lambda: batcher.num_queued == batcher.queued_tokens == 0)
        assert client.get("/readyz").status_code == 200
