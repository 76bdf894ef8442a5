"""What those need who run the service: ids of requests, logs for machines, figures of every status, health for every prober, its
page."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from assay.serve.metrics.gauges import process_gauges
from assay.serve.middleware import Keys
from assay.serve.service_log import JSONLines
from serving import Lengths, service_of, serving, wait_for

ADMIN = "a-token-of-those-who-change"


def item(text: str) -> dict:
    return {"prompt": "q", "response": text}


def ask(client, text: str, path: str = "/v1/score", **more):
    return client.post(path, json={"items": [item(text)]}, **more)


def figure(text: str, series: str) -> float:
    (found,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found)


def test_the_id_of_a_request_is_echoed_logged_and_part_of_the_reply(caplog):
    caplog.set_level(logging.INFO, logger="assay.serve")
    with serving(service_of(Lengths())) as client:
        reply = client.post("/classify", json={"input": "abc"}, headers={"X-Request-Id": "trace-1/a"})
        assert reply.headers["X-Request-Id"] == "trace-1/a"
        assert reply.json()["id"] == "classify-trace-1/a"
        made = {ask(client, "a").headers["X-Request-Id"] for _ in range(3)}
        assert len(made) == 3
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
        for status, asked in ((404, client.get("/nothing")), (422, ask(client, "a", "/get_reward"))):
            assert asked.status_code == status
            assert asked.headers["X-Request-Id"]
        for bad in ("a b", "x" * 129, "new\tline"):
            assert client.get("/v1/models", headers={"X-Request-Id": bad}).headers["X-Request-Id"] != bad
    assert any("POST /classify 200" in line and line.endswith("trace-1/a") for line in caplog.messages)


def test_the_log_is_one_json_object_a_line_when_asked():
    record = logging.LogRecord("assay.serve", logging.INFO, "file", 1, "%s %s", ("POST", '"quoted"\nline'), None)
    record.fields = {"request_id": "r1", "route": "/v1/score", "status": "200", "milliseconds": 1.5}
    line = JSONLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == 'POST "quoted"\nline'
    assert (told["level"], told["request_id"], told["milliseconds"]) == ("INFO", "r1", 1.5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])
    try:
        raise KeyError("k")
    except KeyError:
        failed = logging.LogRecord("assay.serve", logging.ERROR, "file", 1, "failed", (), sys.exc_info())
    assert "KeyError" in json.loads(JSONLines().format(failed))["exception"]


def test_latency_is_counted_for_every_status_with_the_model():
    with serving(service_of(Lengths(), Lengths(factor=2))) as client:
        ask(client, "abc")
        ask(client, "abc", "/m/other/v1/score")
        ask(client, "", "/m/other/get_reward")
        client.get("/nothing")
        text = client.get("/metrics").text
    for route, status, model in (
        ("/v1/score", 200, "rm"),
        ("/v1/score", 200, "other"),
        ("/get_reward", 422, ""),
        ("other", 404, ""),
    ):
        labels = f'route="{route}",status="{status}",model="{model}"'
        assert figure(text, f"assay_requests_total{{{labels}}}") == 1
        assert figure(text, f"assay_request_seconds_count{{{labels}}}") == 1


def test_requests_in_flight_and_the_wait_in_the_queue_are_seen():
    scorer = Lengths(is_open=False)
    with serving(service_of(scorer)) as client, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, client, "first")]
        wait_for(scorer.has_begun.is_set)
        asked += [pool.submit(ask, client, text) for text in ("second", "third")]
        wait_for(lambda: figure(client.get("/metrics").text, 'assay_queue_items{model="rm"}') == 2)
        assert figure(client.get("/metrics").text, "assay_requests_in_flight") == 4  # this one too
        time.sleep(0.1)
        scorer.gate.set()
        assert [future.result().status_code for future in asked] == [200] * 3
        text = client.get("/metrics").text
    assert figure(text, "assay_requests_in_flight") == 1
    assert figure(text, 'assay_queue_wait_seconds_count{model="rm"}') == 3
    assert figure(text, 'assay_queue_wait_seconds_sum{model="rm"}') >= 0.2
    assert figure(text, 'assay_queue_wait_seconds_bucket{model="rm",le="0.05"}') == 1


def test_the_process_and_what_it_was_built_of_are_told():
    with serving(service_of(Lengths())) as client:
        text = client.get("/metrics").text
    assert figure(text, "process_cpu_seconds_total") > 0
    if os.path.exists("/proc/self/stat"):
        assert 2**20 < figure(text, "process_resident_memory_bytes") < figure(text, "process_virtual_memory_bytes")
        assert time.time() - 86_400 < figure(text, "process_start_time_seconds") < time.time()
        assert 3 < figure(text, "process_open_fds") <= figure(text, "process_max_fds")
    (build,) = re.findall(r"^assay_build_info\{(.+)\} 1$", text, re.MULTILINE)
    assert 'version="' in build
    assert 'python="3.' in build
    assert process_gauges().keys() <= set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/ping"])
def test_every_prober_finds_a_health_route_by_get_and_head(path):
    with serving(service_of(Lengths())) as client:
        assert client.get(path).status_code == 200
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert ask(client, "deadly").status_code == 503
        assert client.get(path).status_code == client.head(path).status_code == (200 if path == "/healthz" else 503)


def test_one_model_is_described_by_its_name_with_a_slash_too():
    with serving(service_of(Lengths(), Lengths(factor=2), names=("org/rm-v1", "b"), keys=Keys.of(admin_tokens=[ADMIN]))) as client:
        assert client.get("/v1/models/org/rm-v1").json()["id"] == "org/rm-v1"
        assert client.get("/v1/models/none").status_code == 404
        assert client.get("/version").json()["version"]
        body = {"items": [item("abc")]}
        assert client.post("/m/org%2Frm-v1/v1/score", json=body).json()["model"] == "org/rm-v1"
        assert client.post("/v1/score", json={**body, "model": "org/rm-v1"}).json()["model"] == "org/rm-v1"
        told = client.post("/v1/admin/models/org/rm-v1/drop", headers={"Authorization": f"Bearer {ADMIN}"})
        assert (told.status_code, "org/rm-v1 has no candidate" in told.text) == (409, True)
        assert client.put("/classify", json={"text": "abc"}).json()["embedding"] == [3.0]


def test_the_page_shows_every_route_and_loads_nothing_from_elsewhere():
    with serving(service_of(Lengths())) as client:
        reply, openapi = client.get("/docs"), client.get("/openapi.json").json()
    page = reply.text
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<link|<img|https?://|@import|url\(", page)
    shown = set(re.findall(r"<code>(?:GET|POST|PUT) (\S+?)</code>", page))
    assert shown == set(openapi["paths"])
    for field in ("use_activation", "ground_truth", "return_documents", "responses_create_params", "top_n"):
        assert f"<code>{field}</code>" in page


def test_a_clock_that_jumps_changes_neither_deadlines_nor_rewards(monkeypatch):
    real = time.time
    offsets = iter([0.0, 86_400.0, -86_400.0, 3.15e8, -1e9] * 100)
    monkeypatch.setattr(time, "time", lambda: real() + next(offsets, 0.0))
    with serving(service_of(Lengths())) as client:
        for length in range(1, 20):
            reply = ask(client, "x" * length, headers={"X-Request-Timeout": "5"})
            assert reply.json()["rewards"][0]["value"] == length
        assert client.get("/readyz").status_code == 200


def test_a_method_that_a_path_does_not_have_is_told_those_that_it_has():
    with serving(service_of(Lengths())) as client:
        for path, methods in (("/classify", "POST, PUT"), ("/v1/score", "POST"), ("/v1/models/rm", "GET")):
            reply = client.request("DELETE", path)
            assert (reply.status_code, reply.headers["Allow"]) == (405, methods)
