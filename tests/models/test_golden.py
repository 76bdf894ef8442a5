"""Golden vectors: what the saved files give, read back as they were written, and left out with a reason where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.errors import ArtifactError
from assay.models.saved import artifact
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.models.saved.golden import GOLDEN_FILE, LONGEST, Golden, golden_completions, read_golden
from assay.scorers.local import LocalScorer
from tiny import CHATML, tiny_model, tiny_renderer

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML


def saved(path: Path, kind: str = "llama", *, template: str = CHATML, dtype: torch.dtype = torch.float32, **settings) -> Golden:
    save_artifact(tiny_model(kind), tiny_renderer(template, **settings), path, {}, dtype=dtype)
    golden = read_golden(path)
    assert golden is not None
    return golden


def by_name(golden: Golden, name: str) -> int:
    return [completion.id for completion in golden.completions].index(name)


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_they_are_the_rewards_and_tokens_of_the_saved_files(kind, tmp_path):
    golden = saved(tmp_path / "a", kind)
    loaded = load_artifact(tmp_path / "a")
    rewards = LocalScorer(loaded.model, loaded.renderer, identity="test").score(golden.completions)
    np.testing.assert_allclose(rewards.value, golden.rewards, atol=1e-5)
    assert [tuple(item.tokens.tolist()) for item in loaded.renderer.render(golden.completions)] == list(golden.token_ids)
    assert np.nanstd(golden.rewards) > 0.1


def test_of_a_bfloat16_artifact_they_are_of_the_rounded_weights_not_of_those_in_memory(tmp_path):
    exact, rounded = saved(tmp_path / "a"), saved(tmp_path / "b", dtype=torch.bfloat16)
    assert np.nanmax(np.abs(exact.rewards - rounded.rewards)) > 1e-3
    loaded = load_artifact(tmp_path / "b")
    again = LocalScorer(loaded.model, loaded.renderer, identity="test").score(rounded.completions).value
    np.testing.assert_allclose(again, rounded.rewards, atol=1e-5)


def test_they_cover_what_they_say(tmp_path):
    golden = saved(tmp_path / "a", max_length=128)
    names = [completion.id for completion in golden.completions]
    assert len(names) == len(set(names)) == 12
    assert golden.errors[by_name(golden, "empty answer")] == "the response is empty"
    assert np.isnan(golden.rewards[by_name(golden, "empty answer")])
    assert np.isnan(golden.rewards).sum() == 1
    long = by_name(golden, "longer than max_length")
    assert len(golden.token_ids[long]) == 128
    assert json.loads((tmp_path / "a" / GOLDEN_FILE).read_text())["items"][long]["is_cut"]
    prompts = [completion.messages for completion in golden.completions]
    assert max(prompts.count(prompt) for prompt in prompts) == 4
    assert any(len(prompt) == 3 for prompt in prompts)
    assert any(prompt[0].role == "system" for prompt in prompts)
    assert any("谢谢" in str(completion.response) for completion in golden.completions)
    assert any(completion.response != str(completion.response).strip() for completion in golden.completions)


def test_a_template_that_refuses_a_system_turn_leaves_that_text_without_a_reward_and_says_why(tmp_path):
    golden = saved(tmp_path / "a", template=NO_SYSTEM)
    refused = by_name(golden, "system prompt")
    assert "no system turn" in str(golden.errors[refused])
    assert golden.token_ids[refused] == ()
    assert np.isnan(golden.rewards).sum() == 2


def test_a_length_policy_that_sets_aside_says_so(tmp_path):
    golden = saved(tmp_path / "a", overlong="set_aside", max_length=128)
    assert "more than max_length 128" in str(golden.errors[by_name(golden, "longer than max_length")])


def test_a_text_that_would_be_too_long_to_be_cheap_is_left_out_with_the_reason():
    within, none = golden_completions(LONGEST)
    beyond, left_out = golden_completions(LONGEST + 1)
    assert (len(within), none) == (12, {})
    assert len(beyond) == 11
    assert left_out == {"longer than max_length": "a text of more than 2049 tokens costs more than all the others together"}


@pytest.mark.parametrize("max_length", [8, 100, LONGEST])
def test_the_long_text_is_always_too_long(max_length):
    completions, _ = golden_completions(max_length)
    (item,) = tiny_renderer(max_length=max_length).render(completions[-1:])
    assert item.is_cut
    assert len(str(completions[-1].response).split()) >= max_length, "a tokenizer makes at least one token of a word"


def test_an_artifact_without_them_has_none_and_a_damaged_file_is_an_artifact_error(tmp_path):
    saved(tmp_path / "a")
    file = tmp_path / "a" / GOLDEN_FILE
    for text in ("{", "[]", "{}", '{"schema_version": 1, "items": [{"id": 1}]}'):
        file.write_text(text)
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_golden(tmp_path / "a")
    file.write_text('{"schema_version": 2}')
    with pytest.raises(ArtifactError, match="has schema 2, this Assay reads 1: upgrade"):
        read_golden(tmp_path / "a")
    file.unlink()
    assert read_golden(tmp_path / "a") is None


def test_when_they_cannot_be_made_the_old_artifact_stays(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    before = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(artifact, "write_golden", fail)
    with pytest.raises(OSError, match="disk full"):
        save_artifact(tiny_model(seed=1), tiny_renderer(), tmp_path / "a", {})
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == before
