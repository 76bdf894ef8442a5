"""What an endpoint may do wrong, each on a fake server: no verdict, its reason, its bill. Rates, keys and the probe."""

from __future__ import annotations

import json
import math
import re
import time

import pytest

from assay.errors import EngineError
from assay.generation.endpoint import Endpoint, Rates
from assay.generation.generator import Generator, Limits
from assay.generation.ledger import Ledger
from assay.generation.prices import Price, dollars
from assay.generation.replies import Ask, Sampling, Unreadable
from assay.messages import Message
from fake_chat import Request, fake_chat, said

FAST = Limits(attempts=2, readings=2, item_seconds=5.0)
PRICE = Price(1_000_000.0, 0.0)  # a dollar a token that is read: 10 a call


def ask(text="hi", **sampling):
    return Ask(messages=(Message("user", text),), sampling=Sampling(**sampling))


def verdict(one, reply):
    if "Verdict: yes" not in reply.text:
        raise Unreadable("the reply has no verdict")
    return 1.0


def generator(chat, limits=FAST, ledger=None, **rates):
    backend = Endpoint(chat.url, "m", rates=Rates(**rates), price=PRICE)
    made = Generator(backend, limits=limits, ledger=ledger)
    made.features()
    return made


def html(request):
    return 200, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}


FAULTS = {
    "HTML with 200": (html, "a page of HTML", 2),
    "half a JSON": (lambda request: (200, b'{"choices": [{"message": {"con'), "half a JSON", 2),
    "nothing with 200": (lambda request: (200, b""), "nothing", 2),
    "no choices": (lambda request: {"choices": []}, "without choices", 2),
    "an error with 200": (lambda request: {"error": {"message": "overloaded"}}, "overloaded", 2),
    "a choice without a message": (lambda request: {"choices": [{}]}, "without a message", 2),
    "empty content": (lambda request: said(None), "has no verdict", 2),
    "a refusal": (lambda request: said(None, refusal="I will not"), "refused: I will not", 2),
    "a content filter": (lambda request: said("x", finish="content_filter"), "content filter", 2),
    "500": (lambda request: (500, {"error": "boom"}), "answered 500 .boom", 2),
    "a 429 storm": (lambda request: (429, {"error": "slow down"}, {"Retry-After": "0.01"}), "answered 429 .slow down", 2),
    "400": (lambda request: (400, {"error": "too long"}), "answered 400 .too long", 2),
    "unreadable": (lambda request: said("I cannot say."), "has no verdict", 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_no_verdict_with_a_reason_and_a_bill(fault):
    answer, reason, tries = FAULTS[fault]
    with fake_chat(answer) as chat:
        made = generator(chat)
        before = made.bill
        (found,) = made.ask([ask()], verdict)
        assert found.verdict is None
        assert found.error is not None
        assert re.search(reason, found.error), found.error
        assert len(chat.requests) == tries
        assert made.bill.num_calls - before.num_calls == tries
        assert made.bill.num_failed == tries
        recorded = [
            attempt for attempts in made.ledger.attempts([ask().key(made.backend.identity)]).values() for attempt in attempts
        ]
        assert len(recorded) == tries
        assert all(attempt.error for attempt in recorded)


def test_a_fault_that_passes_is_tried_again():
    replies = [(503, {"error": "warming up"}), said("Verdict: yes")]
    with fake_chat(lambda request: replies.pop(0)) as chat:
        made = generator(chat)
        assert made.ask([ask()], verdict)[0].verdict == 1.0
        assert made.bill.num_calls == 3  # the probe, the failure, the reply
        assert made.bill.price == 20.0  # the failure told no tokens
        assert made.bill.num_unpriced == 1


def test_what_was_answered_or_could_not_be_read_twice_is_never_paid_again(tmp_path):
    path = tmp_path / "ledger.sqlite"
    asks = [ask("good"), ask("bad"), ask("lost")]

    def answer(request: Request):
        return {"good": said("Verdict: yes"), "bad": said("no idea"), "lost": (500, {})}[request.text]

    with fake_chat(answer) as chat:
        first = [(one.verdict, one.error) for one in generator(chat, ledger=Ledger(path)).ask(asks, verdict)]
        assert (path.stat().st_mode & 0o777) == 0o600
        assert len(chat.requests) == 5
        chat.requests.clear()
        made = generator(chat, ledger=Ledger(path))
        assert [(one.verdict, one.error) for one in made.ask(asks, verdict)] == first
        assert [request.text for request in chat.requests] == ["lost", "lost"]  # nothing came back for these, so nothing was paid
        assert len(chat.probes) == 1
    chat.requests.clear()
    assert made.ask(asks[:2], verdict)[0].verdict == 1.0  # the server is gone: the ledger is not


def test_equal_asks_of_one_call_are_asked_once():
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        assert [one.verdict for one in generator(chat).ask([ask()] * 5, verdict)] == [1.0] * 5
        assert len(chat.requests) == 1


def test_an_endpoint_that_is_down_or_refuses_is_named_before_anything_is_asked():
    with fake_chat(lambda request: (401, {"error": "no key"}), answers_probes=False) as chat:
        made = Generator(Endpoint(chat.url, "m"))
        with pytest.raises(EngineError, match=r"answered 401 .no key.*--key-env"):
            made.features()
    with pytest.raises(EngineError, match="cannot be reached"):
        Generator(Endpoint(chat.url, "m")).features()


def test_an_endpoint_that_goes_down_costs_the_retries_of_the_run_and_no_more():
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        made = generator(chat, Limits(attempts=4, retries=3, item_seconds=5.0))
    began = time.monotonic()
    found = made.ask([ask(str(i)) for i in range(20)], verdict)
    assert all("cannot be reached" in one.error for one in found)
    assert sum("retries are spent" in one.error for one in found) >= 17
    assert made.bill.num_failed == 23
    assert time.monotonic() - began < 4


def test_a_reply_that_takes_too_long_is_a_timeout():
    with fake_chat(lambda request: said("Verdict: yes"), seconds=0.6) as chat:
        (found,) = generator(chat, Limits(attempts=1), timeout_seconds=0.15).ask([ask()], verdict)
        assert "timed out: no reply in 0.15 s" in found.error


def test_an_item_and_a_run_have_deadlines():
    with fake_chat(lambda request: (429, {}, {"Retry-After": "30"})) as chat:
        began = time.monotonic()
        (found,) = generator(chat, Limits(item_seconds=0.5)).ask([ask()], verdict)
        assert "answered 429" in found.error
        assert "no time was left" in found.error
        assert time.monotonic() - began < 3
    with fake_chat(lambda request: said("Verdict: yes"), seconds=0.1) as chat:
        made = generator(chat, Limits(run_seconds=0.25), concurrency=1)
        found = made.ask([ask(str(i)) for i in range(6)], verdict)
        assert found[0].verdict == 1.0
        assert "the run's 0.25 s are over" in found[-1].error
        assert len(chat.requests) < 6


@pytest.mark.parametrize(
    ("price", "told"),
    [(1234.5, "$1,234.50"), (0.0123, "$0.0123"), (0.00025, "$0.00025"), (2.1e-7, "$0.00000021"), (1e-4, "$0.0001"), (0, "$0.0000")],
)
def test_small_sums_are_told_with_digits_that_say_something(price, told):
    assert dollars(price) == told


def test_a_budget_is_never_overdrawn():
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        made = generator(chat, Limits(budget=85.0))  # 10 a call, the probe too; 12 are set aside for each until then
        found = made.ask([ask(f"question {i:04}") for i in range(20)], verdict)
        assert made.bill.price <= 85.0
        assert 3 <= len(chat.requests) < 20
        said_of_it = [one.error for one in found if one.error]
        assert all("the next call may cost $" in why and "could exceed the budget of $85.00 ($" in why for why in said_of_it)
        assert any(" spent" in why for why in said_of_it)
    with pytest.raises(ValueError, match=r"a budget of \$0.00002 needs a price, .* give price_in and price_out in \[judge\]"):
        Generator(Endpoint(chat.url, "m"), limits=Limits(budget=2e-5))
    with pytest.raises(ValueError, match="needs a price"):
        Generator(Endpoint(chat.url, "m"), limits=Limits(budget=1.0))


def test_the_probe_believes_what_comes_back():
    for features in ((), ("n",), ("logprobs", "schema"), ("n", "logprobs", "schema")):
        with fake_chat(lambda request: said("Verdict: yes"), features) as chat:
            found = Generator(Endpoint(chat.url, "m")).features()
            assert (found.replies, found.logprobs, found.schema) == tuple(name in features for name in ("n", "logprobs", "schema"))
            assert len(chat.probes) == 1


def test_an_endpoint_that_refuses_what_it_does_not_know_is_asked_piece_by_piece():
    def answer(request: Request):
        if request.body.keys() & {"n", "response_format"}:
            return 400, {"error": "unknown field"}
        if "max_tokens" in request.body:
            return 400, {"error": {"message": "use max_completion_tokens instead of max_tokens"}}
        return said("Yes", tokens=[("Yes", {"Yes": -0.1, "No": -2.0})] if request.body.get("logprobs") else None)

    with fake_chat(answer, answers_probes=False) as chat:
        made = Generator(Endpoint(chat.url, "m"))
        found = made.features()
        assert (found.replies, found.logprobs, found.schema) == (False, True, False)
        assert found.length_field == "max_completion_tokens"
        assert made.sample(["hello"], max_tokens=7)[0][0].text == "Yes"
        assert chat.requests[-1].body["max_completion_tokens"] == 7


def test_samples_go_as_one_call_where_the_endpoint_gives_several():
    def answer(request: Request):
        reply = said("one")
        reply["choices"] = [{**reply["choices"][0], "message": {"content": f"reply {k}"}} for k in range(request.body.get("n", 1))]
        return reply

    for features, num_calls in ((("n",), 2), ((), 6)):
        with fake_chat(answer, features) as chat:
            made = generator(chat)
            found = made.sample(["a", "b"], n=3, temperature=0.7, seed=5)
            assert len(chat.requests) == num_calls
            assert [len(replies) for replies in found] == [3, 3]
            assert made.bill.input_tokens == 10 * (num_calls + 1)  # a call is billed once, however many replies it gave
            if features:
                assert [reply.text for reply in found[0]] == ["reply 0", "reply 1", "reply 2"]
            else:
                assert sorted(request.body["seed"] for request in chat.requests) == [5, 5, 6, 6, 7, 7]


def slots(num_slots: int, longest: int = 100):
    """As llama.cpp's server answers: no more replies to a call than it has slots, and no longer messages than one of them takes."""

    def answer(request: Request):
        if request.body.get("n", 1) > num_slots:
            said_so = f"Field 'n': Value must be between 1 <= value <= {num_slots}, but got {request.body['n']}"
            return 400, {"error": {"code": 400, "message": said_so, "type": "invalid_request_error"}}
        if len(request.text) > longest:
            return 400, {
                "error": {"code": 400, "message": "exceeds the available context size", "type": "exceed_context_size_error"}
            }
        reply = said("one")
        reply["choices"] *= request.body.get("n", 1)
        return reply

    return answer


def test_more_samples_than_the_endpoint_gives_at_once_are_asked_for_alone():
    with fake_chat(slots(2), ("n",)) as chat:
        made = generator(chat, concurrency=1)
        found = made.sample(["a", "b"], n=3, temperature=0.7, seed=5)
        assert [reply.text for replies in found for reply in replies] == ["one"] * 6
        assert [request.body.get("n", 1) for request in chat.requests] in ([3, 1, 1, 1, 1, 1, 1], [3, 3, 1, 1, 1, 1, 1, 1])
        assert sorted(request.body["seed"] for request in chat.requests if "n" not in request.body) == [5, 5, 6, 6, 7, 7]
        assert made.bill.num_failed == 0, "what was refused as one call is not a failed try of its samples"


def test_a_call_that_is_refused_for_another_reason_leaves_the_others_as_one():
    with fake_chat(slots(3), ("n",)) as chat:
        made = generator(chat, concurrency=1)
        (refused, given) = made.sample(["long " * 50, "b"], n=3, temperature=0.7)
        assert all("exceeds the available context" in reply.error for reply in refused)
        assert [reply.text for reply in given] == ["one"] * 3
        assert [request.body.get("n", 1) for request in chat.requests if request.text == "b"] == [3]


def test_a_refused_number_does_not_use_up_the_budget():
    with fake_chat(slots(1), ("n",)) as chat:
        made = Generator(Endpoint(chat.url, "m", rates=Rates(concurrency=1), price=PRICE), limits=Limits(budget=60.0))
        made.features()  # 10 dollars, as each call
        found = made.sample(["a"], n=3, temperature=0.7, max_tokens=1)[0]
        assert [reply.text for reply in found] == ["one"] * 3


def test_a_reply_that_is_cut_off_says_so_and_a_failed_one_has_no_text():
    with fake_chat(lambda request: said("half a", finish="length") if request.text == "a" else (400, {})) as chat:
        (cut,), (failed,) = generator(chat).sample(["a", "b"])
        assert (cut.text, cut.finish) == ("half a", "length")
        assert failed.text is None
        assert "answered 400" in failed.error


def test_the_key_goes_to_the_named_host_alone_and_nothing_of_the_environment_goes_out(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Leak: from-the-environment")
    with fake_chat(lambda request: said("Verdict: yes")) as other:
        moved = (307, {}, {"Location": f"{other.url}/chat/completions"})
        with fake_chat(lambda request: moved if request.text == "move" else said("Verdict: yes")) as chat:
            made = Generator(Endpoint(chat.url, "m", key="secret-1"), limits=FAST)
            made.features()
            found = made.ask([ask("stay"), ask("move")], verdict)
            assert found[0].verdict == 1.0
            assert "answered 307" in found[1].error
            assert all(request.headers["Authorization"] == "Bearer secret-1" for request in (*chat.requests, *chat.probes))
            assert not any("from-the-environment" in str(request.headers) for request in (*chat.requests, *chat.probes))
            plain = Generator(Endpoint(chat.url, "m2"))
            plain.features()
            assert "Authorization" not in chat.probes[-1].headers
        assert other.requests == []


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://user:pw@host/v1", "http://host/v1?key=1"])
def test_what_is_no_url_of_an_endpoint_is_refused(url):
    with pytest.raises(ValueError, match="no URL of an endpoint"):
        Endpoint(url, "m")


def test_the_price_of_a_provider_is_known_and_that_of_a_server_of_ones_own_is_not():
    assert Endpoint("https://api.openai.com/v1", "gpt-4o-mini").price == Price(0.15, 0.6)
    assert Endpoint("http://127.0.0.1:1/v1", "gpt-4o-mini").price is None
    assert Endpoint("https://api.openai.com/v1", "no-such-model-at-all").price is None


def test_a_rate_of_requests_is_held():
    with fake_chat(lambda request: said("Verdict: yes")) as chat:
        made = generator(chat, requests_per_minute=6000)
        began = time.monotonic()
        made.ask([ask(str(i)) for i in range(60)], verdict)
        assert 0.5 < time.monotonic() - began < 1.5  # 60 at 100 a second, less the first few


def test_text_that_is_no_valid_unicode_is_sent_and_recorded():
    with fake_chat(lambda request: (200, json.dumps(said("Verdict: yes \ud800")).encode())) as chat:
        made = generator(chat)
        (found,) = made.ask([ask("a\ud800b")], verdict)
        assert found.verdict == 1.0
        assert made.ask([ask("a\ud800b")], verdict)[0].verdict == 1.0
        assert len(chat.requests) == 1
        assert chat.requests[0].text == "a\ufffdb", "half a character is no JSON that llama.cpp's server reads: it answers 500"


def test_numbers_that_are_no_logprobs_are_left_out():
    tokens = [("yes", {"yes": -0.5, "no": float("nan"), "maybe": 3.0})]
    with fake_chat(lambda request: (200, json.dumps(said("yes", tokens=tokens)).encode()), ("logprobs",)) as chat:
        (found,) = generator(chat).ask(
            [ask(choices=("no", "yes"))], lambda one, reply: [math.exp(p) for _, p in reply.tokens[0].top]
        )
        assert found.verdict == [pytest.approx(math.exp(-0.5))]
