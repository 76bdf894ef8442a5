"""Rerankers: the payloads of vLLM, Cohere, Jina and text-embeddings-inference on one handler; the order is that of the rewards."""

from __future__ import annotations

import numpy as np
import pytest

from assay.records import Completion
from assay.scorers.local import LocalScorer
from serving import Lengths, service_of, serving
from tiny import tiny_renderer

QUESTION, ANSWERS = "How do I boil an egg?", ["Put it in water.", "It is four, not five.", "Tell me a story."]


@pytest.fixture(scope="module")
def values(scorer) -> list[float]:
    return scorer.score([Completion(messages=QUESTION, response=text) for text in ANSWERS]).value.tolist()


@pytest.fixture(scope="module")
def num_tokens(scorer) -> int:
    return sum(len(item.tokens) for item in scorer.renderer.render([Completion(messages=QUESTION, response=a) for a in ANSWERS]))


def post(client, path: str, body: dict, status: int = 200):
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("form", ["text", "object", "parts"])
def test_answers_come_back_best_first_with_their_rewards(path, form, client, scorer, values, num_tokens):
    documents = {
        "text": ANSWERS,
        "object": [{"text": text} for text in ANSWERS],
        "parts": [{"content": [{"type": "text", "text": text}]} for text in ANSWERS],
    }[form]
    reply = post(client, path, {"model": "rm", "query": QUESTION, "documents": documents, "top_n": None, "max_tokens_per_doc": 0})
    assert [row["index"] for row in reply["results"]] == np.argsort(values)[::-1].tolist()
    np.testing.assert_allclose(
        [row["relevance_score"] for row in reply["results"]], sorted(values, reverse=True), atol=scorer.tolerance
    )
    assert [row["document"]["text"] for row in reply["results"]] == [ANSWERS[row["index"]] for row in reply["results"]]
    assert reply["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert reply["meta"]["billed_units"] == {"search_units": 1}


def test_top_n_and_documents_are_left_out_when_asked(client):
    body = {"query": QUESTION, "documents": ANSWERS, "top_n": 2, "return_documents": False}
    results = post(client, "/v1/rerank", body)["results"]
    assert [set(row) for row in results] == [{"index", "relevance_score"}] * 2
    assert "top_n" in str(post(client, "/v1/rerank", {**body, "top_n": -1}, 422))


def test_any_model_name_means_the_one_that_is_served_on_the_aliases_alone(client):
    body = {"model": "BAAI/bge-reranker-v2-m3", "query": QUESTION, "documents": ANSWERS}
    assert post(client, "/v1/rerank", body)["model"] == post(client, "/v2/rerank", body)["model"] == "rm"
    assert "there is no model" in str(post(client, "/rerank", body, 404))
    with serving(service_of(Lengths(), Lengths(factor=2.0))) as two:
        assert "there is no model" in str(post(two, "/v1/rerank", body, 404))
        assert post(two, "/v1/rerank", {**body, "model": "other"})["results"][0]["relevance_score"] == 2.0 * len(ANSWERS[1])


def test_tei_s_ranks_are_a_bare_list_in_the_order_of_the_rewards(client, scorer, values):
    order = np.argsort(values)[::-1].tolist()
    body = {"query": QUESTION, "texts": ANSWERS, "raw_scores": True, "return_text": True, "truncate": True}
    for path in ("/rerank", "/"):
        ranks = post(client, path, body)
        assert [(rank["index"], rank["text"]) for rank in ranks] == [(i, ANSWERS[i]) for i in order]
        np.testing.assert_allclose([rank["score"] for rank in ranks], [values[i] for i in order], atol=scorer.tolerance)
    plain = post(client, "/rerank", {"query": QUESTION, "texts": ANSWERS})
    assert [set(rank) for rank in plain] == [{"index", "score"}] * 3
    np.testing.assert_allclose([rank["score"] for rank in plain], [1 / (1 + np.exp(-values[i])) for i in order], atol=1e-3)


def test_ranks_are_those_of_rewards_whose_sigmoids_are_equal():
    with serving(service_of(Lengths())) as client:
        ranks = post(client, "/rerank", {"query": "q", "texts": ["x" * 50, "x" * 60, "x" * 70]})
    assert [rank["index"] for rank in ranks] == [2, 1, 0]
    assert {rank["score"] for rank in ranks} == {1.0}


def test_a_text_that_would_be_cut_otherwise_than_asked_is_refused(scorer):
    short = LocalScorer(scorer.model, tiny_renderer(max_length=32), identity="short")
    body = {"query": QUESTION, "texts": ["Put it in water. " * 20], "raw_scores": True}
    with serving(service_of(short)) as client:
        assert "truncate is false" in str(post(client, "/rerank", {**body, "truncate": False}, 413))
        assert "cut at the front" in str(post(client, "/rerank", {**body, "truncate": True}, 413))
        kept = post(client, "/rerank", body)
        assert post(client, "/rerank", {**body, "truncate": True, "truncation_direction": "Left"}) == kept
        inputs = {"inputs": [body["query"], body["texts"][0]], "truncate": False}
        assert "truncate is false" in str(post(client, "/predict", inputs, 413))


def test_documents_and_texts_are_two_forms_of_one_field(client):
    for body in ({"query": "a"}, {"query": "a", "documents": ["b"], "texts": ["b"]}):
        assert "give documents, or texts" in str(post(client, "/rerank", body, 400))
