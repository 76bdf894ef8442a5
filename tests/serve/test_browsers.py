"""What a page in a browser may not do to a service on loopback: rebinding a name, and posting from another site."""

from __future__ import annotations

import httpx2
import pytest

from assay.serve.browsers import refusal
from assay.serve.build import hosts_of
from assay.serve.middleware import Keys
from assay.serve.serve_config import ServeConfig
from serving import Lengths, service_of, serving

BODY = {"items": [{"prompt": "q", "response": "abc"}]}
LOCAL = ("127.0.0.1",)


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("me.localhost:8000", True),
        ("[::1]:8000", True),
        ("0.0.0.0:8000", True),
        ("10.1.2.3", True),
        ("rewards.internal:8000", True),
        ("", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
        ("[::1.evil]", False),
    ],
)
def test_only_addresses_and_names_of_ours_are_hosts(host, passes):
    headers = {b"host": host.encode()} if host else {}
    assert (refusal("GET", headers, ("127.0.0.1", "rewards.internal")) is None) == passes
    assert refusal("GET", headers, ()) is None


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({b"origin": b"http://127.0.0.1:8000"}, True),
        ({b"origin": b"http://127.0.0.1:8000", b"sec-fetch-site": b"same-origin"}, True),
        ({b"sec-fetch-site": b"none"}, True),
        ({b"origin": b"http://127.0.0.1:9000"}, False),
        ({b"origin": b"https://evil.example"}, False),
        ({b"origin": b"null"}, False),
        ({b"sec-fetch-site": b"cross-site"}, False),
        ({b"sec-fetch-site": b"same-site"}, False),
    ],
)
def test_a_post_from_another_site_is_refused_and_a_look_is_not(headers, passes):
    headers = {b"host": b"127.0.0.1:8000", **headers}
    for method in ("POST", "PUT", "DELETE"):
        assert (refusal(method, headers, LOCAL) is None) == passes
    assert refusal("GET", headers, LOCAL) is None


def test_with_tokens_any_name_may_be_asked_for_unless_one_is_named():
    assert hosts_of(ServeConfig(models=("a",)), Keys()) == ("127.0.0.1",)
    named = ServeConfig(models=("a",), allowed_host=("Rewards.Internal",))
    assert hosts_of(named, Keys()) == ("127.0.0.1", "rewards.internal")
    keys = Keys.of(["a-token-of-those-who-ask"])
    assert hosts_of(ServeConfig(models=("a",)), keys) == ()
    assert hosts_of(named, keys) == ("rewards.internal",)


def test_the_service_refuses_them_before_anything_is_scored():
    scorer = Lengths()
    with serving(service_of(scorer, hosts=LOCAL)) as client:

        def ask(**headers: str) -> httpx2.Response:
            return client.post("/v1/score", json=BODY, headers={name.replace("_", "-"): value for name, value in headers.items()})

        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}):
            reply = ask(**headers)
            assert (reply.status_code, reply.json()["error"]["type"]) == (403, "PermissionDenied")
        assert scorer.batches == []
        assert ask(origin=str(client.base_url).rstrip("/")).status_code == ask().status_code == 200
        assert client.get("/metrics", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 200
