"""The local scorer keeps the protocol's laws whatever is thrown at it at once, and knows what it is (its fingerprint)."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import assay
from assay.errors import ArtifactError
from assay.models.backbone import split_backbone
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import save_artifact
from assay.models.shared_trunk import SharedTrunk
from assay.records import Completion
from assay.run_files import artifact_path, read_description, write_description
from assay.scorers.base import margins, prefer
from assay.scorers.checks import check_scorer
from assay.scorers.ensemble import Combination
from assay.scorers.load import load
from assay.scorers.local import LocalScorer, load_local
from assay.scorers.wrappers.calibrated import Calibrated, fit_calibration
from assay.stats.metrics import sigmoid
from forwarded import forwarded_texts
from tiny import tiny_model, tiny_renderer, toy_pairs

KINDS = ("llama", "qwen", "gemma")


def scorer_of(kind: str = "llama", *, can_branch: bool = True, max_tokens: int | None = 300, **settings) -> LocalScorer:
    model = tiny_model(kind)
    model.backbone.can_branch = can_branch
    return LocalScorer(model, tiny_renderer(**settings), identity=kind, max_tokens=max_tokens)


def mixed_forms() -> list[Completion]:
    egg = [("user", "How do I boil an egg?")]
    talk = [("system", "Be kind."), ("user", "What is two and two?"), ("assistant", "It is four."), ("user", "Not five?")]
    return [
        Completion(messages=egg, response="Put it in water.", id="a"),
        Completion(messages=egg, response="Put it in water. " * 3, id="b"),
        Completion(messages=talk, response="No, four.", id="c"),
        Completion(text="User: What is two and two? Assistant: four<|im_end|>", id="d"),
        Completion(token_ids=(1, 50, 60, 70, 2), id="e"),
        Completion(messages=egg, response="", id="empty"),
        Completion(messages=egg, response="the quick brown fox " * 30, id="overlong"),
        Completion(token_ids=(1, 399, 100_000), id="outside"),
        Completion(messages=egg, response="Put it in water.", id="a again"),
        Completion(text="", id="no text"),
    ]


def many_completions() -> list[Completion]:
    """300 answers to 40 prompts: lengths from one word to some hundred tokens, the same answer under several prompts."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "please", "tell", "me", "story"]
    draw = np.random.default_rng(0)
    return [
        Completion(messages=f"What is {i % 40}?", response=" ".join(draw.choice(words, int(draw.integers(1, 40)))), id=str(i))
        for i in range(300)
    ]


@pytest.mark.parametrize("overlong", ["keep_end", "set_aside"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_hold_for_mixed_forms(kind, overlong):
    scorer = scorer_of(kind, max_length=64, overlong=overlong)
    check_scorer(scorer, mixed_forms())
    rewards = scorer.score(mixed_forms())
    assert rewards.error is not None
    failed = {item.id: error for item, error in zip(mixed_forms(), rewards.error, strict=True) if error}
    expected = {"empty", "outside", "no text"} | ({"overlong"} if overlong == "set_aside" else set())
    assert failed.keys() == expected
    assert "the response is empty" in failed["empty"]
    assert "vocabulary is 0.." in failed["outside"]
    assert overlong == "keep_end" or "more than max_length 64" in failed["overlong"]
    assert rewards.value[0] == pytest.approx(rewards.value[8], abs=scorer.tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_hold_for_a_backbone_that_cannot_branch(kind):
    scorer = scorer_of(kind, can_branch=False, max_length=64)
    check_scorer(scorer, mixed_forms())
    shared = scorer_of(kind, max_length=64).score(mixed_forms())
    np.testing.assert_allclose(scorer.score(mixed_forms()).value, shared.value, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_hundred_answers_in_any_order_score_as_one_by_one(kind):
    scorer, completions = scorer_of(kind, max_tokens=700), many_completions()
    alone = np.concatenate([scorer.score([completion]).value for completion in completions])
    assert np.isfinite(alone).all()
    assert alone.std() > 0.1
    for seed in (0, 1):
        order = np.random.default_rng(seed).permutation(300)
        together = scorer.score([completions[i] for i in order]).value
        np.testing.assert_allclose(together, alone[order], atol=scorer.tolerance)


def test_the_token_budget_changes_no_score_even_below_one_answer():
    completions = many_completions()[:60]
    wide = scorer_of(max_tokens=100_000).score(completions).value
    for budget in (1, 40, 333):
        np.testing.assert_allclose(scorer_of(max_tokens=budget).score(completions).value, wide, atol=1e-4)


def test_scores_are_the_head_over_the_last_token_of_the_sequence_alone():
    scorer = scorer_of()
    completion = Completion(messages="What is two and two?", response="It is four.")
    (rendered,) = scorer.renderer.render([completion])
    with torch.no_grad():
        hidden = scorer.model.backbone.model(input_ids=torch.from_numpy(rendered.tokens).long()[None]).last_hidden_state
        expected = scorer.model.head(hidden[0, -1]).item()
    assert scorer.score([completion]).value[0] == pytest.approx(expected, abs=1e-5)


def test_a_reward_that_is_not_finite_is_a_failure_with_a_reason():
    scorer = scorer_of()
    with torch.no_grad():
        scorer.model.head.weight.fill_(math.inf)
    rewards = scorer.score(mixed_forms()[:2])
    assert np.isnan(rewards.value).all()
    assert rewards.error == ("the model gave a reward that is not finite",) * 2


@pytest.mark.parametrize("kind", KINDS)
def test_nan_inside_of_one_sequence_spoils_none_that_is_computed_with_it(kind):
    scorer = scorer_of(kind, max_tokens=1000)
    with torch.no_grad():
        scorer.model.backbone.model.get_input_embeddings().weight[390] = float("nan")
    clean = [one for one in many_completions()[:40] if 390 not in scorer.renderer.render([one])[0].tokens]
    (token,) = [text for text, number in scorer.renderer.tokenizer.get_vocab().items() if number == 390]
    bad = scorer.renderer.tokenizer.convert_tokens_to_string([token])
    poisoned = [Completion(messages=clean[0].messages, response=f"a {bad}"), Completion(messages=f"{bad}?", response="water")]
    assert all(390 in item.tokens for item in scorer.renderer.render(poisoned))
    rewards, states_ND = scorer.score_with_states([*clean, *poisoned])
    np.testing.assert_array_equal(rewards.ok, [True] * len(clean) + [False] * 2)
    np.testing.assert_allclose(rewards.value[:-2], scorer.score(clean).value, rtol=0, atol=scorer.tolerance)
    np.testing.assert_array_equal(np.isfinite(states_ND).all(axis=1), rewards.ok)
    check_scorer(scorer, [*clean[:5], *poisoned, *clean[-3:]])


def test_several_heads_are_members_whose_disagreement_is_the_std():
    model = tiny_model(num_members=3)
    scorer = LocalScorer(model, tiny_renderer(max_length=64), identity="x", combination=Combination(penalty=0.5))
    check_scorer(scorer, mixed_forms())
    rewards, members_KN = scorer.score(mixed_forms()), scorer.score_members(mixed_forms())
    assert members_KN.shape == (3, len(mixed_forms()))
    for head, member_N in zip(model.head.weight, members_KN, strict=True):
        alone = RewardModel(model.backbone, torch.nn.Linear(32, 1, bias=False))
        alone.head.weight.data.copy_(head[None])
        value = LocalScorer(alone, tiny_renderer(max_length=64), identity="y").score(mixed_forms()).value
        np.testing.assert_allclose(member_N, value, atol=1e-5)
    std_N = members_KN.std(axis=0, ddof=1)
    np.testing.assert_allclose(rewards.std, std_N, atol=1e-6)
    np.testing.assert_allclose(rewards.value, members_KN.mean(axis=0) - 0.5 * std_N, atol=1e-6)
    assert scorer.fingerprint != LocalScorer(model, tiny_renderer(), identity="x").fingerprint, "another penalty, another scorer"


@pytest.mark.parametrize("num_top", [1, 2])
def test_members_over_one_trunk_score_as_each_alone(num_top):
    wholes = [tiny_model(seed=seed) for seed in range(3)]
    trunk, _ = split_backbone(wholes[0].backbone, num_top)
    tops = [RewardModel(split_backbone(whole.backbone, num_top)[1], whole.head) for whole in wholes]
    for whole in wholes[1:]:  # the same trunk under each
        whole.backbone.model.embed_tokens = trunk.model.embed_tokens
        whole.backbone.model.layers = torch.nn.ModuleList([*trunk.model.layers, *whole.backbone.model.layers[4 - num_top :]])
    scorer = LocalScorer(SharedTrunk(trunk, tops), tiny_renderer(max_length=64), identity="x")
    check_scorer(scorer, mixed_forms())
    members_KN = scorer.score_members(mixed_forms())
    for whole, member_N in zip(wholes, members_KN, strict=True):
        alone = LocalScorer(whole, tiny_renderer(max_length=64), identity="y").score(mixed_forms()).value
        np.testing.assert_allclose(member_N, alone, atol=1e-5)


def test_the_plan_is_kept_and_says_what_it_takes():
    model = tiny_model()
    scorer = LocalScorer(model, tiny_renderer(max_length=64), identity="x", max_tokens=100)
    assert (scorer.plan.max_tokens, scorer.plan.group_tokens) == (100, 6400), "in rounds a group may exceed the budget"
    # one round: of each token 3 x 64 feed-forward and 3 x 32 stream numbers, and 32 more; keys and values of 4 layers, 2 x 8 wide
    assert scorer.plan.forward_bytes == (64 + 4 * 100) * (3 * 64 + 3 * 32 + 32 + 4 * 2 * 2 * 8) * 4
    assert scorer.plan.predicted_bytes > scorer.plan.forward_bytes
    assert "100 tokens a forward" in scorer.plan.summary()
    dense = LocalScorer(tiny_model(attention="sdpa"), tiny_renderer(max_length=64), identity="x", max_tokens=100)
    assert (dense.plan.max_tokens, dense.plan.group_tokens) == (100, 100)
    assert dense.plan.forward_bytes == 100 * (3 * 64 + 3 * 32 + 32) * 4 + 100 * 100 * 7


# From a directory


@pytest.fixture
def artifact(tmp_path) -> Path:
    save_artifact(tiny_model("llama"), tiny_renderer(max_length=128), tmp_path / "run" / "artifact", {"title": "tiny"})
    return tmp_path / "run" / "artifact"


def calibrate(path: Path) -> None:
    scorer = load_local(path, dtype="float32", device="cpu")
    calibration = fit_calibration(margins(scorer, toy_pairs(60)), split="by hand")
    write_description(path, {**read_description(path), "calibration": calibration.to_json()})


def files(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def test_a_run_directory_and_its_artifact_load_to_the_same_scorer(artifact):
    before = files(artifact)
    from_run, from_artifact = (assay.load(path, dtype="float32") for path in (artifact.parent, artifact))
    assert isinstance(from_run, LocalScorer)
    assert from_run.fingerprint == from_artifact.fingerprint
    assert from_run.renderer.max_length == 128
    completions = many_completions()[:20]
    np.testing.assert_array_equal(from_run.score(completions).value, from_artifact.score(completions).value)
    np.testing.assert_allclose(from_run.score(completions).value, scorer_of().score(completions).value, atol=1e-5)
    assert files(artifact) == before
    assert artifact_path(str(artifact.parent)) == artifact_path(artifact) == artifact


def test_the_fingerprint_changes_with_dtype_and_weights_and_not_with_a_calibration(artifact, tmp_path):
    plain = load_local(artifact, dtype="float32").fingerprint
    assert load_local(artifact, dtype="float32", max_tokens=77).fingerprint == plain
    assert load_local(artifact, dtype="bfloat16").fingerprint != plain
    calibrate(artifact)
    assert load_local(artifact, dtype="float32").fingerprint == plain
    others = {
        "weights": (tiny_model("llama", seed=1), tiny_renderer(max_length=128)),
        "length": (tiny_model("llama"), tiny_renderer(max_length=127)),
        "policy": (tiny_model("llama"), tiny_renderer(max_length=128, overlong="set_aside")),
        "template": (
            tiny_model("llama"),
            tiny_renderer("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", max_length=128),
        ),
    }
    prints = {plain}
    for name, (model, renderer) in others.items():
        save_artifact(model, renderer, tmp_path / name, {})
        prints.add(load_local(tmp_path / name, dtype="float32").fingerprint)
    assert len(prints) == 5


def test_calibrated_when_calibrated_with_the_raw_value_unchanged(artifact):
    completions, pairs = many_completions()[:20], toy_pairs(5, first=500)
    raw = assay.load(artifact, dtype="float32")
    before, margins_P = raw.score(completions).value, margins(raw, pairs)
    np.testing.assert_allclose(prefer(raw, pairs), sigmoid(margins_P))
    calibrate(artifact)
    calibrated = assay.load(artifact.parent, dtype="float32")
    assert isinstance(calibrated, Calibrated)
    np.testing.assert_array_equal(calibrated.score(completions).value, before)
    assert calibrated.calibration.temperature != 1.0
    np.testing.assert_allclose(prefer(calibrated, pairs), sigmoid(margins_P / calibrated.calibration.temperature), atol=1e-6)
    check_scorer(calibrated, mixed_forms())
    assert calibrated.fingerprint != raw.fingerprint


def test_bfloat16_keeps_the_head_in_float32_and_within_the_stated_tolerance(artifact):
    scorer = load_local(artifact, dtype="bfloat16")
    assert scorer.model.head.weight.dtype == torch.float32
    assert next(scorer.model.backbone.parameters()).dtype == torch.bfloat16
    check_scorer(scorer, mixed_forms())
    value = scorer.score(many_completions()[:50]).value
    assert not np.array_equal(value, torch.from_numpy(value).bfloat16().float().numpy())


def test_a_path_that_is_neither_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match=r"neither an artifact .*reward\.json.* nor a run directory"):
        load(tmp_path)
    with pytest.raises(ValueError, match="neither an artifact"):
        load(tmp_path / "missing")


def test_an_artifact_without_its_head_is_not_given_a_random_one(artifact):
    from safetensors.torch import load_file, save_file

    weights = load_file(artifact / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, artifact / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="head"):
        load(artifact)


def test_rendered_texts_share_their_prompt_too_and_score_the_same():
    scorer = scorer_of()
    prompts = [f"{i} {'Please tell me a story about a lighthouse keeper. ' * 3}" for i in range(3)]
    completions = [Completion(messages=prompts[i % 3], response=f"It is {i} of two.") for i in range(12)]
    texts = [Completion(text=scorer.renderer.text(completion)) for completion in completions]
    _, places = scorer.packed.groups(texts, scorer.renderer.render(texts))
    assert sorted(sorted(place) for place in places) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    together = scorer.score(texts).value
    np.testing.assert_allclose(together, scorer.score(completions).value, atol=scorer.tolerance)
    alone = np.concatenate([scorer.score([text]).value for text in texts])
    np.testing.assert_allclose(together, alone, atol=scorer.tolerance)


def test_a_text_that_stands_there_twice_is_forwarded_once():
    """The lists of a ranking, as pairs, hold every answer several times."""
    scorer = scorer_of()
    once = [one for one in mixed_forms() if one.id in ("a", "b", "d", "e")]
    back, unreadable = [3, 0, 2, 0, 1, 3, 0], Completion(text="", id="no text")
    with forwarded_texts() as forwarded:
        rewards, states = scorer.score_with_states([*(once[i] for i in back), unreadable, unreadable])
    assert len(forwarded) == len(once)
    assert set(forwarded.values()) == {1}
    alone, alone_states = scorer.score_with_states(once)
    np.testing.assert_allclose(rewards.value[:-2], alone.value[back], atol=scorer.tolerance)
    np.testing.assert_allclose(states[:-2], alone_states[back], atol=1e-4)
    assert np.isnan(rewards.value[-2:]).all()
