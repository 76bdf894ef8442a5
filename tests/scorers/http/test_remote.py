"""The scorer on the other side of HTTP: the laws, what is tried again and what is not, and that a changed model is noticed."""

from __future__ import annotations

import math
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest

import assay
from assay.errors import EngineError
from assay.records import Completion
from assay.rl.verl import verl_reward
from assay.scorers.base import closed
from assay.scorers.checks import check_scorer
from assay.scorers.http.http_answers import Silent
from assay.scorers.http.remote import RemoteScorer
from assay.scorers.local import LocalScorer
from assay.scorers.wrappers.cached import Cached
from assay.serve.middleware import Keys
from fake_engine import fake_engine
from serving import Lengths, answer, service_of, serving, wait_for
from tiny import AGENT, tiny_model, tiny_renderer

COMPLETIONS = [
    Completion(messages="How do I boil an egg?", response="Put it in water."),
    Completion(messages="How do I boil an egg?", response="It is four."),
    Completion(messages="Hi", response=""),
    Completion(messages="Hi", response="a b", steps=("a ", "b")),
    Completion(text="User: Hi Assistant: Hello."),
    Completion(token_ids=(1, 40, 50, 60, 2)),
    Completion(token_ids=(99999,)),
    Completion(text="not Unicode: \ud800"),
]


@pytest.fixture(autouse=True)
def without_a_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("ASSAY_TOKEN", raising=False)


@pytest.fixture(scope="module")
def scorer() -> LocalScorer:
    model = tiny_model()
    model.backbone.config.problem_type = "regression"
    return LocalScorer(model, tiny_renderer(), identity="tiny")


@pytest.fixture(scope="module")
def url(scorer):
    with serving(service_of(scorer)) as client:
        yield str(client.base_url)


def test_a_service_of_assay_is_a_scorer_that_keeps_the_laws(url, scorer):
    remote = assay.load(url)
    assert isinstance(remote, assay.Scorer)
    assert (remote.fingerprint, remote.scope, remote.tolerance) == (scorer.fingerprint, "global", scorer.tolerance)
    check_scorer(remote, COMPLETIONS)
    given, expected = remote.score(COMPLETIONS), scorer.score(COMPLETIONS)
    np.testing.assert_array_equal(given.ok, expected.ok)
    np.testing.assert_allclose(given.value, expected.value, atol=scorer.tolerance)
    assert given.error[:7] == expected.error[:7]


def as_read(engine: str, scorer: LocalScorer) -> list[Completion]:
    """A trainer's texts end where generation did, and are closed; those of engines are read as they are."""
    closes = engine == "openrlhf"
    return [replace(c, text=closed(c.text, scorer.closing)) if closes and c.text else c for c in COMPLETIONS]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tei", "openrlhf"])
def test_the_contracts_of_engines_are_scorers_too(engine, url, scorer):
    remote = RemoteScorer(url, engine=engine, renderer=scorer.renderer, tolerance=scorer.tolerance, chunk=3)
    check_scorer(remote, COMPLETIONS)
    given, expected = remote.score(COMPLETIONS), scorer.score(as_read(engine, scorer))
    told = expected.ok & np.array([engine in ("vllm", "sglang") or c.token_ids is c.steps is None for c in COMPLETIONS])
    np.testing.assert_array_equal(given.ok, told)
    np.testing.assert_allclose(given.value[told], expected.value[told], atol=scorer.tolerance)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tei", "openrlhf"])
def test_without_a_renderer_an_engine_gets_what_it_can_read_as_it_is(engine, url, scorer):
    remote = assay.load(f"{engine}+{url}")
    given, expected = remote.score(COMPLETIONS), scorer.score(as_read(engine, scorer))
    assert given.ok[4]
    for i in np.flatnonzero(given.ok):
        assert given.value[i] == pytest.approx(expected.value[i], abs=scorer.tolerance)
    assert given.ok[0] == (engine == "vllm"), "conversations are rendered by vLLM alone"
    if engine != "vllm":
        assert "name the artifact that it serves" in given.error[0]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tei", "openrlhf"])
@pytest.mark.parametrize("way", ["argument", "behind the URL"])
def test_with_the_artifact_an_engine_takes_prompt_and_response(engine, way, trained_run, tmp_path):
    local = assay.load(trained_run.path, dtype="float32", device="cpu")
    completions = [*COMPLETIONS[:2], Completion(messages="Hi", response="a b"), Completion(text="User: Hi")]
    with serving(service_of(local)) as client:
        url = f"{engine}+{client.base_url}"
        remote = assay.load(url, artifact=trained_run.path) if way == "argument" else assay.load(f"{url}#{trained_run.path}")
        given = remote.score(completions)
    expected = local.score(completions).value
    if engine == "openrlhf":  # closes a trainer's text
        expected[3] = local.score([Completion(text=closed("User: Hi", local.scorer.closing))]).value[0]
    np.testing.assert_allclose(given.value, expected, atol=local.tolerance)


def test_an_artifact_goes_with_an_engine_alone(url, scorer, trained_run, tmp_path):
    with pytest.raises(ValueError, match="goes with an engine"):
        assay.load(url, artifact=trained_run.path)
    with pytest.raises(ValueError, match="has a renderer of its own"):
        RemoteScorer(url, engine="vllm", artifact=trained_run.path, renderer=scorer.renderer)
    with pytest.raises(ValueError, match="is an artifact itself"):
        assay.load(trained_run.path, artifact=trained_run.path)
    with pytest.raises(ValueError, match="give one of them"):
        assay.load(f"vllm+{url}#{trained_run.path}", artifact=trained_run.path)
    with pytest.raises(ValueError, match="is neither an artifact"):
        assay.load(f"vllm+{url}", artifact=tmp_path)
    with pytest.raises(ValueError, match="is no engine"):
        assay.load("rule:math:floor", artifact=trained_run.path)


def test_load_wraps_a_cache_and_refuses_settings_of_a_directory_for_a_url(url, tmp_path):
    cached = assay.load(url, cache=tmp_path / "rewards.db")
    assert isinstance(cached, Cached)
    first, second = cached.score(COMPLETIONS), cached.score(COMPLETIONS)
    np.testing.assert_array_equal(first.value, second.value)
    assert cached.num_hits == int(first.ok.sum())
    with pytest.raises(ValueError, match="not computed from a directory"):
        assay.load(url, max_tokens=100)
    with pytest.raises(EngineError, match="cannot be reached"):
        RemoteScorer("http://127.0.0.1:9", attempts=1)
    for wrong in ("ftp://host", "localhost:8000", ""):
        with pytest.raises(ValueError, match="is no URL"):
            RemoteScorer(wrong)
    with pytest.raises(ValueError, match="must be at least 1"):
        RemoteScorer(url, chunk=0)


def test_tokens_go_in_a_header_or_stand_in_the_url_and_are_not_printed(monkeypatch):
    token = "a-token-of-those-who-ask"
    with serving(service_of(Lengths(), Lengths(factor=2), keys=Keys.of([token]))) as client:
        url = str(client.base_url)
        assert RemoteScorer(url, token=token).score([answer("abc")]).value.tolist() == [3.0]
        assert RemoteScorer(url, token=token, model="other").score([answer("abc")]).value.tolist() == [6.0]
        assert RemoteScorer(f"{url}/t/{token}/m/other/").score([answer("abc")]).value.tolist() == [6.0]
        with pytest.raises(EngineError, match="set ASSAY_TOKEN"):
            RemoteScorer(url)
        monkeypatch.setenv("ASSAY_TOKEN", token)
        assert RemoteScorer(url).score([answer("abc")]).value.tolist() == [3.0]
        with pytest.raises(EngineError, match="serves rm, other, not none"):
            RemoteScorer(url, model="none")
        with pytest.raises(EngineError) as raised:
            RemoteScorer(f"{url}/t/{token}/m/none")
        assert token not in str(raised.value)


def test_a_changed_model_on_the_far_side_raises():
    service = service_of(Lengths())
    with serving(service) as client:
        url = str(client.base_url)
        scorers = [RemoteScorer(url), *(RemoteScorer(url, engine=engine) for engine in ("vllm", "openrlhf"))]
        text = Completion(text="abc")
        assert [scorer.score([text]).value.tolist() for scorer in scorers] == [[3.0]] * 3
        service.models["rm"].propose(service.start_engine("rm", Lengths(factor=2), "new"))
        service.models["rm"].promote()
        for scorer in scorers:
            with pytest.raises(EngineError, match="answers with another model than before"):
                scorer.score([text])
        assert RemoteScorer(url).score([text]).value.tolist() == [6.0]


def test_rewards_of_an_engine_that_does_not_say_what_it_serves_are_not_taken(monkeypatch):
    far = Lengths()
    with serving(service_of(far)) as client:
        scorer = RemoteScorer(str(client.base_url), engine="vllm")
        assert scorer.score([Completion(text="abc")]).value.tolist() == [3.0]

        def silent(self, until):
            raise Silent("it does not say what it serves")

        monkeypatch.setattr(RemoteScorer, "_described", silent)
        rewards = scorer.score([Completion(text="abc"), Completion(text="a")])
    assert np.isnan(rewards.value).all()
    assert rewards.error == ("it does not say what it serves",) * 2
    assert far.batches == [["abc"]], "nothing was asked for that could not be believed"


BUSY = {"error": {"message": "busy"}}
INFO = {
    "models": [{"name": "rm", "fingerprint": "f", "scope": "global", "tolerance": 0.0}],
    "limits": {"max_items": 2},
}


def served(replies: list[tuple[int, Any]]):
    """Answers /v1/score by these, then by lengths; and what it was asked."""
    asked: list[int] = []
    lock = threading.Lock()

    def respond(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with lock:
            asked.append(len(body["items"]))
            status, reply = replies.pop(0) if replies else (200, None)
        rows = [{"value": float(len(item["response"]))} for item in body["items"]]
        return status, reply if reply is not None else {"fingerprint": "f", "rewards": rows}

    return respond, asked


def far_side(respond, monkeypatch):
    """A stand-in for a service whose /v1/info is always there."""
    monkeypatch.setattr(RemoteScorer, "_own_description", lambda self, until: {**INFO["models"][0], "max_items": 2})
    return fake_engine(respond)


@pytest.mark.parametrize("refusal", [(429, BUSY), (503, BUSY), (500, b"busy")], ids=["429", "503", "a proxy's 500"])
def test_only_what_may_pass_is_tried_again(refusal, monkeypatch):
    respond, asked = served([refusal] * 2)
    with far_side(respond, monkeypatch) as url:
        scorer = RemoteScorer(url, seed=0)
        assert scorer.score([answer("abc")]).value.tolist() == [3.0]
        assert asked == [1, 1, 1]
        asked.clear()
    respond, asked = served([refusal] * 9)
    with far_side(respond, monkeypatch) as url:
        rewards = RemoteScorer(url, attempts=2, seed=0).score([answer("abc")])
        assert math.isnan(rewards.value[0])
        assert f"answered {refusal[0]} (busy)" in rewards.error[0]
        assert len(asked) == 2


def test_a_long_absence_is_bridged_by_a_scorer_at_work_and_not_by_a_new_one(monkeypatch):
    monkeypatch.setattr(RemoteScorer, "_pause", lambda *_: 0.0)
    asked = []

    def busy(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        return httpx2.Response(503, json={"error": {"message": "busy"}})

    with httpx2.Client(transport=httpx2.MockTransport(busy)) as client, pytest.raises(EngineError, match="answered 503"):
        RemoteScorer("http://far", client=client)
    assert len(asked) == 6
    respond, sizes = served([(503, {"error": {"message": "busy"}})] * 11)
    with far_side(respond, monkeypatch) as url:
        assert RemoteScorer(url).score([answer("abc")]).value.tolist() == [3.0]
    assert sizes == [1] * 12


def test_what_will_not_pass_is_not_tried_again(monkeypatch):
    for status in (500, 504):
        respond, asked = served([(status, {"error": {"message": "no"}})])
        with far_side(respond, monkeypatch) as url:
            rewards = RemoteScorer(url).score([answer("abc")])
            assert f"answered {status} (no)" in rewards.error[0]
            assert asked == [1]
    for status, message in ((401, "set ASSAY_TOKEN"), (404, "check the URL")):
        respond, asked = served([(status, {"error": {"message": "no"}})])
        with far_side(respond, monkeypatch) as url, pytest.raises(EngineError, match=message):
            RemoteScorer(url).score([answer("abc")])


def test_a_service_that_is_gone_leaves_reasons_and_no_rewards(monkeypatch):
    respond, _ = served([])
    with far_side(respond, monkeypatch) as url:
        scorer = RemoteScorer(url, attempts=2, seed=0)
    rewards = scorer.score([answer("abc"), answer("a")])
    assert np.isnan(rewards.value).all()
    assert all("cannot be reached" in error for error in rewards.error)


def test_the_deadline_of_a_call_holds_whatever_the_far_side_does(monkeypatch):
    def respond(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.4)
        return 503, {"error": {"message": "busy"}}

    with far_side(respond, monkeypatch) as url:
        scorer = RemoteScorer(url, deadline_seconds=0.6, attempts=100)
        start = time.monotonic()
        rewards = scorer.score([answer("abc")])
        assert time.monotonic() - start < 3
        assert rewards.error[0] is not None


def test_requests_are_cut_to_what_the_far_side_takes_and_put_together_in_order(monkeypatch):
    respond, asked = served([])
    with far_side(respond, monkeypatch) as url:
        rewards = RemoteScorer(url).score([answer("a" * size) for size in range(1, 8)])
    assert rewards.value.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(asked) == [1, 2, 2, 2]


def test_a_request_that_is_refused_for_one_item_is_repeated_without_it(monkeypatch):
    def respond(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if any("bad" in text for text in body["query"]):
            return 400, {"error": {"message": "too long"}}
        return 200, {"rewards": [float(len(text)) for text in body["query"]]}

    texts = ["a", "bad", "abc", "abcd", "abcde", "bad!", "abcdefg"]
    with fake_engine(respond) as url:
        rewards = RemoteScorer(url, engine="openrlhf").score([Completion(text=text) for text in texts])
    assert rewards.ok.tolist() == ["bad" not in text for text in texts]
    assert "too long" in rewards.error[1]
    assert rewards.value[rewards.ok].tolist() == [1, 3, 4, 5, 7]


@pytest.mark.parametrize("value", [None, "high", math.inf])
def test_an_engine_s_answer_that_is_no_number_is_no_reward(value):
    def respond(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"rewards": [value if text == "bad" else 1.0 for text in body["query"]]}

    with fake_engine(respond) as url:
        rewards = RemoteScorer(url, engine="openrlhf").score([Completion(text=text) for text in ("a", "bad", "b")])
    assert rewards.ok.tolist() == [True, False, True]
    assert "no number" in rewards.error[1] or "overflows" in rewards.error[1]


def test_what_is_no_service_of_assay_is_reported_at_once(monkeypatch):
    with fake_engine(lambda path, body: (200, {})) as url, pytest.raises(EngineError, match=r"answered 404|not Assay's service"):
        RemoteScorer(url)
    respond, _ = served([(200, {"rewards": []})])
    with far_side(respond, monkeypatch) as url, pytest.raises(EngineError, match="did not answer with 1 rewards"):
        RemoteScorer(url).score([answer("abc")])


def test_it_travels_to_another_process_and_says_how_answers_are_closed():
    scorer = LocalScorer(tiny_model(), tiny_renderer(), identity="tiny")
    with serving(service_of(scorer)) as client:
        remote = RemoteScorer(str(client.base_url))
        assert remote.closing == scorer.closing == "<|im_end|>\n"
        there = pickle.loads(pickle.dumps(remote))
        assert there.fingerprint == remote.fingerprint
        given, expected = there.score([answer("abc")]), remote.score([answer("abc")])
        np.testing.assert_allclose(given.value, expected.value, atol=remote.tolerance)


def test_threads_ask_at_once_and_are_scored_together():
    lengths = Lengths(is_open=False)
    with serving(service_of(lengths)) as client:
        compute_score = verl_reward(RemoteScorer(str(client.base_url), num_connections=8))
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(compute_score, "set", "a", None, {"prompt": "q"})]
            assert lengths.has_begun.wait(20)  # alone: of eight at once the first batch may hold several
            asked += [pool.submit(compute_score, "set", "a" * size, None, {"prompt": "q"}) for size in range(2, 9)]
            wait_for(lambda: b'assay_queue_items{model="rm"} 7' in client.get("/metrics").content, 20)
            lengths.gate.set()
            assert [row.result(20)["score"] for row in asked] == list(range(1, 9))
    assert [len(batch) for batch in lengths.batches] == [1, 7]


CALL = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": {"q": "egg"}}}
AGENTS = [
    Completion(
        messages=[
            {"role": "user", "content": "How long?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "ten", "tool_call_id": "c1"},
        ],
        response_message={"role": "assistant", "content": "Ten.", "reasoning_content": "It says so."},
        tools=({"type": "function", "function": {"name": "lookup"}},),
    ),
    Completion(messages="How long?", response_message={"role": "assistant", "content": "", "tool_calls": [CALL]}),
]


def test_tools_calls_and_reasoning_go_over_the_wire_and_engines_without_the_renderer_refuse_them():
    model = tiny_model()
    model.backbone.config.problem_type = "regression"
    scorer = LocalScorer(model, tiny_renderer(AGENT), identity="tiny")
    expected = scorer.score(AGENTS)
    assert expected.ok.all()
    with serving(service_of(scorer)) as client:
        url = str(client.base_url)
        for remote in (RemoteScorer(url), RemoteScorer(url, engine="vllm", renderer=scorer.renderer)):
            np.testing.assert_allclose(remote.score(AGENTS).value, expected.value, atol=scorer.tolerance)
        refused = RemoteScorer(url, engine="vllm").score([*AGENTS, COMPLETIONS[0]])
        assert refused.ok.tolist() == [False, False, True]
        assert "name the artifact that it serves" in refused.error[0]


class Exact(Lengths):
    """1 where the answer is the ground truth's; remembers the ground truths it was given."""

    reads_ground_truth = True

    def score(self, completions):
        truths = [completion.ground_truth for completion in completions]
        self.batches.append(truths)
        return assay.Rewards(value=[float((t or {}).get("answer") == c.response) for t, c in zip(truths, completions, strict=True)])


@pytest.mark.parametrize("reads", [True, False])
def test_the_ground_truth_is_sent_to_those_who_read_it_and_equal_answers_are_then_two(reads):
    known = [replace(answer("4"), ground_truth={"answer": right}) for right in ("4", "5")]
    scorer = Exact()
    scorer.reads_ground_truth = reads
    with serving(service_of(scorer)) as client:
        remote = RemoteScorer(str(client.base_url))
        assert remote.reads_ground_truth is reads
        assert remote.score(known).value.tolist() == ([1.0, 0.0] if reads else [0.0, 0.0])
    assert [truth for batch in scorer.batches for truth in batch] == ([{"answer": "4"}, {"answer": "5"}] if reads else [None])
