"""One step's loss and gradient beside TRL's RLOO and GRPO trainers on the same answers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from assay.models.device import pick_compute
from assay.rl import advantages
from assay.rl.kl_control import KLSettings
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.policy_step import _backward, draw, generator_of, weigh
from policy_worlds import a_run, bandit_base, copied

trl = pytest.importorskip("trl")
BETA = 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return bandit_base(tmp_path_factory.mktemp("base") / "base")


def trainer_of(kind: str, base, out):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {
        "output_dir": str(out),
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 5,
        "beta": BETA,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "gradient_checkpointing": False,
        "disable_dropout": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared = {
            "model": AutoModelForCausalLM.from_pretrained(base),
            "reward_funcs": lambda completions, **columns: [0.0 for _ in completions],
            "processing_class": AutoTokenizer.from_pretrained(base, padding_side="left"),
            "train_dataset": Dataset.from_dict({"prompt": ["pull"] * 8}),
        }
        if kind == "rloo":
            return trl.RLOOTrainer(args=trl.RLOOConfig(**settings), **shared)
        return trl.GRPOTrainer(args=trl.GRPOConfig(**settings, loss_type="grpo"), **shared)


def ours(estimator: str, base, tmp_path):
    """A model that has moved a little from the one that drew the answers, the answers, and what they weigh."""
    run = a_run(base, tmp_path / "ours", estimator=estimator, samples=8, max_tokens=5, kl=KLSettings(beta=BETA))
    model = load_policy(str(base), params="full", compute=pick_compute("cpu", "float32"))
    drawn = draw(model.plain, model.tokens, run.prompts, run.scorer, run.settings, samples=8, generator=generator_of(3))
    generator = generator_of(4)
    with torch.no_grad():
        for weight in model.causal.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    weighed = weigh(model, drawn, run.settings, BETA)
    with torch.no_grad():
        for weight in model.causal.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return run, model, drawn, weighed


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_the_loss_of_a_step_and_its_gradient_are_those_of_trl(estimator, base, tmp_path):
    run, model, drawn, weighed = ours(estimator, base, tmp_path)
    trainer = trainer_of(estimator, base, tmp_path / "trl")
    trainer.model.load_state_dict(model.causal.state_dict())
    rollouts = drawn.rollouts
    inputs = {
        "prompt_ids": rollouts.prompt_NL,
        "prompt_mask": rollouts.prompt_mask_NL.long(),
        "completion_ids": rollouts.answer_NT,
        "completion_mask": rollouts.mask_NT.long(),
        "old_logps": weighed.then_NT.sum(1),
        "old_per_token_logps": weighed.then_NT,
        "ref_per_token_logps": weighed.reference_NT,
        "advantages": weighed.advantage,
        "num_items_in_batch": rollouts.mask_NT.sum(),
    }
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer._compute_loss(trainer.model, inputs)
    theirs.backward()
    total, _ = _backward(model, rollouts, weighed, torch.arange(8), run.settings, BETA, 1 / weighed.num_counted)
    assert len(weighed.places) <= 8
    assert total == pytest.approx(float(theirs), abs=1e-5)
    for (name, weight), other in zip(model.causal.named_parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_advantages_are_those_of_trls_formulas():
    rewards = torch.tensor([[1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 1.0, 0.0]])
    baselines = (rewards.sum(1, keepdim=True) - rewards) / 3
    np.testing.assert_allclose(advantages.rloo(rewards.numpy()), (rewards - baselines).numpy(), atol=1e-6)
    scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    np.testing.assert_allclose(advantages.grpo(rewards.numpy()), scaled.numpy(), atol=1e-6)


def test_answers_to_copy_are_drawn_in_the_shares_of_the_policy(base, tmp_path):
    """Sampling against the log-probabilities that training uses: each answer's share is exp of the sum of its tokens'."""
    run = a_run(base, tmp_path / "run", copied, max_tokens=5)
    model = load_policy(str(base), params="full", compute=pick_compute("cpu", "float32"))
    drawn = draw(model.plain, model.tokens, run.prompts, run.scorer, run.settings, samples=4000, generator=generator_of(5))
    sums_N = model.log_probabilities(drawn.rollouts, 1.0).sum(1).exp().numpy()
    texts = np.array([one.response for one in drawn.completions])
    finished_N = drawn.rollouts.finished_N.numpy()
    for arm in ("red", "green", "blue", "white"):
        said_N = (texts == arm) & finished_N & (drawn.rollouts.mask_NT.sum(1).numpy() == 2)
        share = said_N.mean()
        assert abs(share - sums_N[said_N][0]) < 4 * np.sqrt(share * (1 - share) / len(texts))
