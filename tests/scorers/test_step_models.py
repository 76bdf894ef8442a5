"""Process models of others: every step's value is that of the publisher's reading, written out with one forward a step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import assay
from assay.models.published.published_steps import FORMATS, StepForm
from assay.records import Completion
from assay.scorers.base import ReadsSteps
from assay.scorers.checks import check_scorer
from assay.scorers.steps.step_models import StepModelScorer
from assay.stats.steps.step_reductions import reduce_values
from process_models import ORACLES, QUESTION, SAVED, save_qwen_math_prm, save_reasoneval, steps_of


def opened(form: str, path: Path, settings: str = "") -> StepModelScorer:
    scorer = assay.load(f"{SAVED[form](path)}#{form}{settings}", dtype="float32", device="cpu")
    assert isinstance(scorer, StepModelScorer)
    return scorer


def solution(form: str, num_steps: int = 3) -> Completion:
    return Completion(messages=QUESTION, steps=steps_of(form)[:num_steps])


def test_every_form_that_is_read_has_an_oracle():
    assert set(ORACLES) == {name for name, form in FORMATS.items() if isinstance(form, StepForm)}


@pytest.mark.parametrize("form", ORACLES)
def test_steps_have_the_values_of_the_publishers_reading(form, tmp_path):
    scorer = opened(form, tmp_path / "theirs")
    rewards = scorer.score([solution(form, num) for num in (3, 1, 2)])
    expected = ORACLES[form](tmp_path / "theirs", QUESTION, [step.rstrip("\n") for step in steps_of(form)])
    assert rewards.error == (None, None, None)
    for steps_S, num in zip(rewards.steps, (3, 1, 2), strict=True):
        np.testing.assert_allclose(steps_S, expected[:num], atol=1e-5)
    assert np.ptp(expected) > 0.01, "a check that any reading would pass"
    assert isinstance(scorer, ReadsSteps)
    np.testing.assert_allclose(rewards.value[1], reduce_values(np.array(expected[:1]), FORMATS[form].reduction), atol=1e-5)


def test_reasoneval_reads_where_the_publishers_script_counts_when_its_padding_is_the_bos(tmp_path):
    path = save_reasoneval(tmp_path / "theirs", pad="<s>")
    steps = [step.rstrip("\n") for step in steps_of("reasoneval")]
    (found,) = assay.load(f"{path}#reasoneval", dtype="float32").score([solution("reasoneval")]).steps
    np.testing.assert_allclose(found, ORACLES["reasoneval"](path, QUESTION, steps), atol=1e-5)


def test_a_linear_head_of_qwens_form_is_read_too(tmp_path):
    path = save_qwen_math_prm(tmp_path / "theirs", linear=True)
    (found,) = assay.load(path, dtype="float32").score([solution("qwen-math-prm")]).steps
    steps = [step.rstrip("\n") for step in steps_of("qwen-math-prm")]
    np.testing.assert_allclose(found, ORACLES["qwen-math-prm"](path, QUESTION, steps), atol=1e-5)


@pytest.mark.parametrize("form", ORACLES)
def test_the_laws_of_scorers_hold(form, tmp_path):
    other = Completion(messages="And without the eggs?", steps=steps_of(form)[1:])
    alike = Completion(messages=QUESTION, steps=(*steps_of(form)[:2], "The answer is not 6, but five."))
    unfit = Completion(messages=QUESTION, response="   ")
    check_scorer(opened(form, tmp_path / "theirs"), [solution(form), other, alike, unfit, solution(form, 1)])


@pytest.mark.parametrize("form", ORACLES)
def test_a_response_without_steps_is_cut_into_the_publishers(form, tmp_path):
    scorer = opened(form, tmp_path / "theirs")
    whole = Completion(messages=QUESTION, response="".join(steps_of(form)))
    assert scorer.tokens.steps(whole) == steps_of(form)
    in_steps, cut = scorer.score([solution(form)]), scorer.score([whole])
    np.testing.assert_array_equal(in_steps.steps[0], cut.steps[0])


REDUCED = [("min", 0.25), ("product", math.log(0.5 * 0.25)), ("last", 0.25), ("mean", 0.375)]


@pytest.mark.parametrize(("how", "expected"), REDUCED)
def test_reductions(how, expected):
    assert reduce_values(np.array([0.5, 0.25], np.float32), how) == pytest.approx(expected)
    assert math.isnan(reduce_values(np.array([0.5, np.nan], np.float32), how))
    assert math.isnan(reduce_values(np.empty(0, np.float32), how))


def test_a_product_of_many_steps_still_tells_solutions_apart():
    worse, better = (reduce_values(np.full(400, p, np.float32), "product") for p in (0.1, 0.2))
    assert worse < better
    assert np.float32(0.2**400) == np.float32(0.1**400) == 0.0


def test_a_reduction_that_is_asked_for_replaces_the_publishers(tmp_path):
    scorer = opened("trl", tmp_path / "theirs", "?reduction=mean")
    rewards = scorer.score([solution("trl")])
    assert rewards.value[0] == pytest.approx(rewards.steps[0].mean(), abs=1e-6)
    assert "as given; the default of #" in scorer.assumed["reduction"]
    with pytest.raises(ValueError, match="means nothing"):
        assay.load(f"{tmp_path / 'theirs'}#pure?reduction=product")


def test_a_solution_whose_logits_are_not_finite_spoils_no_other(tmp_path):
    path = SAVED["trl"](tmp_path / "theirs")
    clean = assay.load(f"{path}#trl", dtype="float32").score([solution("trl"), solution("trl", 2)])
    tensors = load_file(path / "model.safetensors")
    (token,) = AutoTokenizer.from_pretrained(path)("~", add_special_tokens=False)["input_ids"]
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    broken = Completion(messages=QUESTION, steps=(*steps_of("trl")[:2], "So ~ 6."))
    rewards = assay.load(f"{path}#trl", dtype="float32").score([solution("trl"), broken, solution("trl", 2)])
    assert rewards.error == (None, "the model gave logits that are not finite, from step 3 on", None)
    np.testing.assert_allclose(rewards.steps[0], clean.steps[0], atol=1e-5)
    np.testing.assert_allclose(
        rewards.steps[1], [*clean.steps[1], np.nan], atol=1e-5
    )  # 0 times NaN is NaN: read once more without it
    assert np.isnan(rewards.value[1])
    np.testing.assert_allclose(rewards.steps[2], clean.steps[1], atol=1e-5)


@pytest.mark.parametrize("form", ORACLES)
def test_a_step_that_cannot_be_read_leaves_the_steps_before_it_their_values(form, tmp_path):
    """Whatever the reason: an empty step, a control token, the form's own separator, broken text."""
    scorer = opened(form, tmp_path / "theirs")
    held = str(scorer.tokens.tokenizer.bos_token or scorer.tokens.tokenizer.eos_token)
    (clean,) = scorer.score([solution(form, 2)]).steps
    for bad in ("  \n", f"So {held} six.", "So \ud800 six."):
        steps = (*steps_of(form)[:2], bad, steps_of(form)[2])
        rewards = scorer.score([Completion(messages=QUESTION, steps=steps), solution(form)])
        np.testing.assert_allclose(rewards.steps[0], [*clean, np.nan, np.nan], atol=1e-5)
        assert np.isnan(rewards.value[0])
        assert "step 3" in rewards.error[0]
        assert rewards.error[1] is None


def test_all_steps_of_solutions_to_one_question_take_one_forward(tmp_path, monkeypatch):
    """Counted in tokens: the question once, each solution once; re-forwarding each prefix would read them again and again."""
    scorer = opened("trl", tmp_path / "theirs")
    items = [Completion(messages=QUESTION, steps=(*steps_of("trl")[:2], f"The answer is {n}.")) for n in (5, 6, 7)]
    sizes: list[int] = []
    run = scorer.model.backbone.read
    monkeypatch.setattr(scorer.model.backbone, "read", lambda batch, *more: sizes.append(batch.tokens.size) or run(batch, *more))
    scorer.score(items)
    rendered = scorer.tokens.render(items)
    once = sum(len(item.tokens) for item in rendered)
    assert len(sizes) == 1
    assert sizes[0] < once
    assert sizes[0] < sum(int(read) + 1 for item in rendered for read in item.reads) / 2
