"""Rows out of a trainer's padded batch get the reward of the bare text, over every contract that takes rendered text or ids."""

from __future__ import annotations

import numpy as np
import pytest

from assay.records import Completion
from assay.rl.openrlhf import openrlhf_reward
from assay.rl.trl import trl_reward
from assay.scorers.local import LocalScorer
from serving import service_of, serving
from tiny import tiny_model, tiny_renderer

PAD, END = "<|endoftext|>", "<|im_end|>"
WHOLE = Completion(messages="Tell me about egg 3", response="Put it in water.")


@pytest.fixture(scope="module")
def scorer() -> LocalScorer:
    return LocalScorer(tiny_model(), tiny_renderer(), identity="tiny")


@pytest.fixture(scope="module")
def client(scorer):
    with serving(service_of(scorer)) as client:
        yield client


@pytest.fixture(scope="module")
def value(scorer) -> float:
    return float(scorer.score([WHOLE]).value[0])


def texts_of(scorer: LocalScorer) -> list[str]:
    """The bare text, then with padding at either end: with the pad token or the end token, closed or as generation ended."""
    bare = str(scorer.renderer.text(WHOLE))
    ended = bare.removesuffix("\n")
    return [bare, bare + PAD, bare + 5 * PAD, 3 * PAD + bare, 2 * PAD + ended + PAD, ended + 4 * END, END + ended + END]


def test_trainers_texts(client, scorer, value):
    for text in texts_of(scorer):
        for path, body, name in (
            ("/get_reward", {"query": [text]}, "rewards"),
            ("/v1/score/evaluation", {"messages": [text]}, "scores"),
        ):
            (reward,) = client.post(path, json=body).json()[name]
            assert abs(reward - value) < scorer.tolerance, (path, text)
        reward = client.post("/remote_rm?rendered=true", json={"prompt": "", "response": text}).json()
        assert abs(reward - value) < scorer.tolerance, text


def test_rendered_texts_and_ids(client, scorer, value):
    for text in texts_of(scorer)[:4]:
        ids = scorer.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        rows = client.post("/v1/score", json={"items": [{"text": text}, {"token_ids": ids}]}).json()["rewards"]
        assert [abs(row["value"] - value) < scorer.tolerance for row in rows] == [True, True], text
        reply = client.post("/classify", json={"input": [ids], "use_activation": False}).json()
        assert abs(reply["data"][0]["probs"][0] - value) < scorer.tolerance
        assert np.abs(scorer.score([Completion(text=text), Completion(token_ids=ids)]).value - value).max() < scorer.tolerance


def test_the_reward_functions_of_trainers(scorer, value):
    bare = str(scorer.renderer.text(WHOLE))
    prompt, answer = bare.split("Put it")[0], "Put it in water."
    for padding in ("", PAD, END + PAD + PAD, END + END):
        assert abs(trl_reward(scorer)([PAD + prompt], [answer + padding])[0] - value) < scorer.tolerance
        rewards = openrlhf_reward(scorer)([PAD + prompt + answer + padding], [""], [None])["rewards"]
        assert abs(float(rewards[0]) - value) < scorer.tolerance


def test_a_prompt_without_an_answer_is_refused_as_an_empty_answer(client, scorer):
    prompt = str(scorer.renderer.text(WHOLE)).split("Put it")[0]
    for path, body in (
        ("/get_reward", {"query": [prompt]}),
        ("/get_reward", {"query": [prompt + END + PAD]}),
        ("/remote_rm?rendered=true", {"prompt": prompt, "response": " "}),
        ("/classify", {"input": [prompt]}),
        ("/classify", {"input": [scorer.renderer.tokenizer(prompt, add_special_tokens=False)["input_ids"]]}),
    ):
        reply = client.post(path, json=body)
        assert reply.status_code == 422, path
        assert "the response is empty" in reply.json()["error"]["message"]
    (row,) = client.post("/v1/score", json={"items": [{"text": prompt}]}).json()["rewards"]
    assert (row["value"], row["error"]) == (None, "the response is empty")
