"""text-embeddings-inference's routes, and what huggingface_hub's InferenceClient posts to the address itself."""

from __future__ import annotations

import json

import huggingface_hub
import numpy as np
import pytest

from assay.records import Completion

QUESTION, ANSWERS = "How do I boil an egg?", ["Put it in water.", "It is four, not five."]


@pytest.fixture(scope="module")
def texts(scorer) -> list[str]:
    return [str(scorer.renderer.text(Completion(messages=QUESTION, response=answer))) for answer in ANSWERS]


@pytest.fixture(scope="module")
def values(scorer, texts) -> list[float]:
    return scorer.score([Completion(text=text) for text in texts]).value.tolist()


def post(client, body: dict, status: int = 200):
    reply = client.post("/", json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_the_address_itself_predicts_as_predict_does(client, texts):
    for body in (
        {"inputs": texts[0]},
        {"inputs": [QUESTION, ANSWERS[0]], "raw_scores": True},
        {"inputs": [[texts[0]], [texts[1]]]},
    ):
        expected = json.loads(
            client.post("/predict", json=body).text, parse_float=lambda text: pytest.approx(float(text), abs=1e-4)
        )
        assert post(client, body) == expected


def test_text_classification_gives_what_transformers_pipeline_gives(client, texts, values, scorer):
    (rows,) = post(client, {"inputs": texts[0], "parameters": {}})
    assert rows == [{"label": "LABEL_0", "score": pytest.approx(values[0], abs=scorer.tolerance)}]
    both = post(client, {"inputs": texts, "parameters": {"top_k": 1, "function_to_apply": "none"}})
    np.testing.assert_allclose([row[0]["score"] for row in both], values, atol=scorer.tolerance)
    ((squashed,),) = post(client, {"inputs": texts[0], "parameters": {"function_to_apply": "sigmoid"}})
    assert squashed["score"] == pytest.approx(1 / (1 + np.exp(-values[0])), abs=1e-4)
    assert "function_to_apply" in str(post(client, {"inputs": texts[0], "parameters": {"function_to_apply": "softmax"}}, 422))


def test_the_inference_client_gets_rewards(client, texts, values, scorer):
    asking = huggingface_hub.InferenceClient(model=str(client.base_url), token="none", timeout=30)
    (found,) = asking.text_classification(texts[0])
    assert found.score == pytest.approx(values[0], abs=scorer.tolerance)
    expected = scorer.score([Completion(messages=QUESTION, response=answer) for answer in ANSWERS]).value
    np.testing.assert_allclose(asking.sentence_similarity(QUESTION, other_sentences=ANSWERS), expected, atol=scorer.tolerance)


def test_the_default_model_is_described_with_its_fingerprint(client, scorer):
    told = client.get("/info").json()
    assert (told["model_id"], told["model_sha"]) == ("rm", scorer.fingerprint)
    assert told["model_type"] == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    assert (told["max_input_length"], told["model_dtype"]) == (1024, "float32")


def test_what_is_no_request_is_refused(client):
    for body in ({}, {"query": "a"}, {"texts": ["a"]}, {"inputs": "a", "query": "a", "texts": ["a"]}):
        assert "give inputs, or query and texts" in str(post(client, body, 400))
