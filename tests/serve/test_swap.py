"""Changing models while they serve: who may, from where, and that no request changes its model on the way."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assay.records import PreferencePair, Rewards
from assay.scorers.checks import check_scorer
from assay.scorers.wrappers.scaled import Scaled
from assay.serve.admin import artifact_inside
from assay.serve.build import scale_onto
from assay.serve.middleware import Keys
from assay.serve.service import BadRequest, Service, Swapping
from serving import Lengths, answer, service_of, serving, wait_for

TOKEN, ADMIN = "a-token-of-those-who-ask", "an-admin-token-for-models"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
PAIRS = [PreferencePair(prompt=f"question {i}", chosen="a" * (2 + i % 5), rejected="a" * (1 + i % 3), id=str(i)) for i in range(40)]


class Mortal(Lengths):
    """Ends its thread when it is asked anything."""

    def score(self, completions):
        raise SystemExit("the device is lost")


def swapping_service(tmp_path: Path, scorer: Lengths, *, reference: bool = True) -> Service:
    """A service that loads models named by their factor: the file `factor` of their directory."""
    for name, factor in (("double", "2"), ("triple", "3"), ("broken", "none"), ("mortal", "0")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "factor").write_text(factor)
    (tmp_path / "outside").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "outside")
    swapping = Swapping(
        directory=tmp_path / "models",
        load=lambda path: (Mortal if path.name == "mortal" else Lengths)(factor=float((path / "factor").read_text())),
        measure_scale=(lambda old, new: scale_onto(old, new, PAIRS)) if reference else None,
    )
    return service_of(scorer, swapping=swapping, keys=Keys.of([TOKEN], [ADMIN]))


def change(client, action: str, status: int = 200, **body) -> dict:
    reply = client.post(f"/v1/admin/models/rm/{action}", json=body or None, headers=HEADERS)
    assert reply.status_code == status, reply.text
    return reply.json()


def ask(client, text: str) -> dict:
    reply = client.post(
        "/v1/score", json={"items": [{"prompt": "q", "response": text}]}, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def value(client, text: str) -> float:
    return ask(client, text)["rewards"][0]["value"]


def test_a_model_is_loaded_promoted_and_rolled_back(tmp_path):
    with serving(swapping_service(tmp_path, Lengths())) as client:
        told = change(client, "load", artifact="double", rescale=False)
        assert told["candidate"]["source"] == "double"
        assert value(client, "abc") == 3.0, "a candidate answers nobody"
        before = ask(client, "abc")["fingerprint"]
        assert change(client, "promote")["previous"]["fingerprint"] == before
        assert value(client, "abc") == 6.0
        assert ask(client, "abc")["fingerprint"] != before
        told = change(client, "rollback")
        assert (told["current"]["fingerprint"], told["candidate"]["source"], told["previous"]) == (before, "double", None)
        assert value(client, "abc") == 3.0
        assert change(client, "drop")["candidate"] is None
        for action in ("promote", "rollback", "shadow", "drop"):
            assert "error" in change(client, action, 409)
        listed = client.get("/v1/admin/models", headers=HEADERS).json()["models"]
        assert [(model["name"], model["candidate"]) for model in listed] == [("rm", None)]


def test_a_new_model_is_brought_to_the_scale_of_the_old_one(tmp_path):
    with serving(swapping_service(tmp_path, Lengths())) as client:
        scale = change(client, "load", artifact="double")["candidate"]["scale"]
        assert scale["factor"] == pytest.approx(0.5)
        assert (scale["n_scored"], scale["n"], scale["agreement"]) == (40, 40, 1.0)
        assert scale["low"] <= 0.5 <= scale["high"]
        change(client, "promote")
        assert value(client, "abc") == 3.0
        assert change(client, "load", artifact="triple")["candidate"]["scale"]["factor"] == pytest.approx(1 / 3)


def test_without_a_reference_a_new_scale_has_to_be_asked_for(tmp_path):
    with serving(swapping_service(tmp_path, Lengths(), reference=False)) as client:
        assert "rescale: false" in str(change(client, "load", 409, artifact="double"))
        assert change(client, "load", artifact="double", rescale=False)["candidate"]["scale"] is None


def test_requests_in_flight_are_answered_by_the_model_they_began_with(tmp_path):
    scorer = Lengths(is_open=False)
    with serving(swapping_service(tmp_path, scorer)) as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, client, "abc")
        wait_for(scorer.has_begun.is_set)
        waiting = pool.submit(ask, client, "abcde")
        wait_for(lambda: 'assay_queue_items{model="rm"} 1' in client.get("/metrics", headers=HEADERS).text)
        change(client, "load", artifact="double", rescale=False)
        change(client, "promote")
        assert value(client, "abc") == 6.0
        scorer.gate.set()
        for future, expected in ((running, 3.0), (waiting, 5.0)):
            assert future.result()["fingerprint"] == "lengths 1.0"
            assert future.result()["rewards"][0]["value"] == expected


def test_a_shadow_is_asked_the_same_answers_nobody_and_is_compared(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="assay.serve")
    scorer = Lengths()
    with serving(swapping_service(tmp_path, scorer)) as client:
        change(client, "load", artifact="double", rescale=False)
        change(client, "shadow")
        items = [{"prompt": "q", "response": text} for text in ("a", "abc", "")]
        reply = client.post("/v1/score", json={"items": items}, headers=HEADERS)
        assert [row["value"] for row in reply.json()["rewards"]] == [1.0, 3.0, None]

        def seen() -> dict:
            return client.get("/v1/admin/models", headers=HEADERS).json()["models"][0]["shadow"]

        wait_for(lambda: seen()["n_scored"] == 2)
        assert seen() == {
            "n": 3,
            "n_scored": 2,
            "mean_difference": 2.0,
            "rms_difference": pytest.approx(5**0.5),
            "largest_difference": 3.0,
            "flips": 0,
            "pairs": 1,
        }
        assert 'assay_shadow_mean_difference{model="rm"} 2' in client.get("/metrics", headers=HEADERS).text
        assert change(client, "unshadow")["shadow"] is None
    assert "shadow of rm: 2 of 3 rewards by both, 0 of 1 pairs flip: 1 -> 2, 3 -> 6" in caplog.text


def test_a_shadow_that_dies_harms_nobody(tmp_path):
    failures = []
    with serving(swapping_service(tmp_path, Lengths()), on_failure=failures.append) as client:
        change(client, "load", artifact="mortal", rescale=False)
        change(client, "shadow")

        def listed() -> dict:
            return client.get("/v1/admin/models", headers=HEADERS).json()["models"][0]

        assert value(client, "abc") == 3.0
        wait_for(lambda: not listed()["candidate"]["is_alive"])
        assert value(client, "abcd") == 4.0
        assert client.get("/readyz").status_code == 200
        assert (listed()["shadow"]["n"], listed()["shadow"]["n_scored"]) == (2, 0)
        assert "has failed" in str(change(client, "promote", 409))
        assert value(client, "abcde") == 5.0
    assert failures == []


def test_only_an_admin_token_in_a_header_changes_models(tmp_path):
    with serving(swapping_service(tmp_path, Lengths())) as client:
        for headers, path in (
            ({}, "/v1/admin/models"),
            ({"Authorization": f"Bearer {TOKEN}"}, "/v1/admin/models"),
            ({}, f"/t/{ADMIN}/v1/admin/models"),
        ):
            assert client.get(path, headers=headers).status_code == 401
    with serving(service_of(Lengths())) as client:
        assert client.get("/v1/admin/models", headers=HEADERS).status_code == 403


def test_models_come_from_the_directory_alone(tmp_path):
    with serving(swapping_service(tmp_path, Lengths())) as client:
        for name, status in (("../outside", 422), ("/etc", 422), ("", 422), (".", 422), ("..", 422), ("a/b", 422), ("none", 404)):
            assert "error" in change(client, "load", status, artifact=name)
        for name in ("rule:os:getcwd", "http://127.0.0.1:1", "vllm+http://127.0.0.1:1"):  # neither code nor another service
            assert "error" in change(client, "load", 422, artifact=name)
        assert "error" in change(client, "load", 404, artifact="link")
        assert "broken was not loaded" in str(change(client, "load", 409, artifact="broken"))
        assert value(client, "abc") == 3.0
    with pytest.raises(BadRequest):
        artifact_inside(tmp_path / "models", "link")


def test_a_scaled_scorer_keeps_the_laws_and_scales_everything():
    class Stepped(Lengths):
        def score(self, completions):
            rewards = super().score(completions)
            return Rewards(value=rewards.value, std=[0.5] * len(rewards), steps=tuple([1.0, 2.0] for _ in completions))

    scaled = Scaled(scorer=Stepped(), factor=2.0)
    check_scorer(scaled, [answer("abc"), answer(""), answer("a")])
    rewards = scaled.score([answer("abc"), answer("")])
    assert (rewards.value[0], rewards.std[0], rewards.steps[0].tolist()) == (6.0, 1.0, [2.0, 4.0])
    assert rewards.error == (None, "the scorer returned no finite value")
    assert scaled.fingerprint != Scaled(scorer=Stepped(), factor=3.0).fingerprint != Stepped().fingerprint
    for factor in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be a positive number"):
            Scaled(scorer=Lengths(), factor=factor)
