"""A process reward model behind the service: steps in Assay's own form, and what a vLLM client reads of every token."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from assay.records import Completion
from assay.scorers.http.remote import RemoteScorer
from assay.scorers.local import LocalScorer
from serving import service_of, serving
from step_models import COMPLETIONS, QUESTION, SOLUTIONS, save_step_artifact, saved_scorer
from tiny import tiny_model, tiny_renderer


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_step_artifact(tmp_path_factory.mktemp("served") / "artifact")


@pytest.fixture(scope="module")
def client(path):
    with serving(service_of(saved_scorer(path))) as client:
        yield client


def post(client, where: str, body: dict, status: int = 200):
    reply = client.post(where, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_score_returns_the_steps_given_or_cut_by_the_rule(client, path):
    expected = saved_scorer(path).score(COMPLETIONS)
    items = [{"prompt": QUESTION, "steps": list(steps)} for steps in SOLUTIONS]
    items.append({"prompt": QUESTION, "response": "".join(SOLUTIONS[0])})
    items.append({"text": "<|im_start|>user\nhi<|im_end|>"})
    rewards = post(client, "/v1/score", {"items": items})["rewards"]
    for found, steps, value in zip(rewards, expected.steps, expected.value, strict=False):
        np.testing.assert_allclose(found["steps"], steps, atol=1e-4)
        assert found["value"] == pytest.approx(float(value), abs=1e-4)
    np.testing.assert_allclose(rewards[4]["steps"], expected.steps[0], atol=1e-4)
    assert rewards[5]["value"] is None
    assert rewards[5]["error"]


def test_a_remote_scorer_gets_the_steps(client, path):
    remote = RemoteScorer(str(client.base_url))
    theirs, ours = remote.score(COMPLETIONS), saved_scorer(path).score(COMPLETIONS)
    for one, other in zip(theirs.steps, ours.steps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@torch.no_grad()
def test_pooling_gives_a_vllm_client_the_logits_of_every_token(client, path):
    tokenizer = AutoTokenizer.from_pretrained(path)
    plain = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32).eval()
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "".join(SOLUTIONS[0])}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = plain(input_ids=torch.tensor([ids])).logits[0].numpy()
    bodies = {
        "text": {"input": text, "add_special_tokens": False},
        "ids": {"input": [ids, ids[:9]]},
        "messages": {"messages": turns},
    }
    for name, body in bodies.items():
        reply = post(client, "/pooling", {**body, "task": "token_classify"})
        assert reply["object"] == "list"
        np.testing.assert_allclose(reply["data"][0]["data"], expected, atol=1e-4, err_msg=name)
        assert reply["data"][0]["object"] == "pooling"
    reply = post(client, "/pooling", {"input": [ids, ids[:9]], "task": "token_classify"})
    np.testing.assert_allclose(reply["data"][1]["data"], expected[:9], atol=1e-4)
    assert reply["usage"]["prompt_tokens"] == len(ids) + 9
    coded = post(client, "/pooling", {"input": ids, "task": "token_classify", "encoding_format": "base64"})["data"][0]["data"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4").reshape(-1, 2), expected, atol=1e-4)
    own = saved_scorer(path)
    (item,) = own.renderer.render(COMPLETIONS[:1])
    log_odds = expected[item.reward_positions, 1] - expected[item.reward_positions, 0]
    np.testing.assert_allclose(log_odds, own.score(COMPLETIONS[:1]).steps[0], atol=1e-4)


def test_what_is_not_served_is_refused_by_name(client):
    assert "use token_classify" in str(post(client, "/pooling", {"input": "x", "task": "classify"}, 400))
    long = {"messages": [{"role": "user", "content": "It is two. " * 200}, {"role": "assistant", "content": "four"}]}
    assert "more than" in str(post(client, "/pooling", {**long, "task": "token_classify"}, 422))
    with serving(service_of(LocalScorer(tiny_model(), tiny_renderer(), identity="scalar"))) as scalar:
        assert "use classify" in str(post(scalar, "/pooling", {"input": "x", "task": "token_classify"}, 400))


def test_rewards_and_tokens_of_one_text_are_two_questions(client):
    ids = [5, 6, 7, 8, 9, 10]
    assert post(client, "/v1/score", {"items": [{"token_ids": ids}]})["rewards"][0]["value"] is None
    assert len(post(client, "/pooling", {"input": ids, "task": "token_classify"})["data"][0]["data"]) == len(ids)


def test_all_tokens_of_a_completion_have_logits_whatever_its_form(path):
    scorer = saved_scorer(path)
    (item,) = scorer.renderer.render(COMPLETIONS[:1])
    forms = [COMPLETIONS[0], Completion(token_ids=tuple(item.tokens.tolist())), Completion(messages=QUESTION, response=" ")]
    found = scorer.token_logits(forms)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert found[0].shape == (len(item.tokens), 2)
    assert found[2] == "the response is empty"
    assert scorer.token_labels == ("wrong", "right")
