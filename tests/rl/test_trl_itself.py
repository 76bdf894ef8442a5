"""TRL's own trainers with a reward model of Assay: a few steps on tiny models."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from assay.errors import RewardError
from assay.records import Rewards
from assay.rl.trl import trl_reward
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Criterion, Rubric
from assay.scorers.judges.open_judge import open_judge
from assay.scorers.local import LocalScorer
from assay.scorers.verifiers.built_in import built_in_rule
from tiny import save_tiny_base, tiny_model, tiny_renderer

pytestmark = pytest.mark.slow

trl = pytest.importorskip("trl")


class Failing:
    """A scorer that has no reward for the second answer of every call."""

    scope, tolerance = "global", 0.0

    def __init__(self, scorer):
        self.scorer, self.fingerprint = scorer, f"failing:{scorer.fingerprint}"

    def score(self, completions):
        value = self.scorer.score(completions).value.copy()
        value[1:2] = math.nan
        return Rewards(value=value)


def train(kind, tmp_path, scorer, **settings):
    path = save_tiny_base(tmp_path / "policy")
    config, trainer = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}[kind]
    prompts = [[{"role": "user", "content": f"Tell me about egg {i}"}] for i in range(8)]
    arguments = config(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=2,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        temperature=1.0,
    )
    trained = trainer(
        model=AutoModelForCausalLM.from_pretrained(path),
        reward_funcs=[trl_reward(scorer, **settings)],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(path),
    )
    before = [p.detach().clone() for p in trained.model.parameters()]
    trained.train()
    moved = any(not torch.equal(a, b) for a, b in zip(before, trained.model.parameters(), strict=True))
    return [row for row in trained.state.log_history if "reward" in row], moved


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_a_policy_trains_on_the_rewards(kind, tmp_path):
    rows, moved = train(kind, tmp_path, LocalScorer(tiny_model(seed=1), tiny_renderer(), identity="tiny"))
    assert len(rows) == 2
    assert moved
    assert all(np.isfinite(row["rewards/assay/mean"]) and row["assay/unscored"] == 0 for row in rows)
    assert any(row["rewards/assay/std"] > 0 for row in rows)


def test_a_policy_trains_on_a_judge_in_this_process(tmp_path):
    path = save_tiny_base(tmp_path / "judge", seed=3, max_positions=2048)
    rubric = Rubric(criteria=(Criterion(name="good", text="Is it good?"), Criterion(name="short", text="Is it short?")))
    judge = open_judge(replace(rubric, judge=JudgeSettings(model=str(path))), dtype="float32", device="cpu")
    rows, moved = train("grpo", tmp_path, judge)
    assert len(rows) == 2
    assert moved
    assert all(0 < row["rewards/assay/mean"] < 1 and row["assay/unscored"] == 0 for row in rows)
    assert any(row["rewards/assay/std"] > 0 for row in rows)


def test_a_policy_trains_on_a_rule(tmp_path):
    rows, moved = train("grpo", tmp_path, built_in_rule("length", {"min_characters": 8, "max_characters": 12, "fade": 2}))
    assert len(rows) == 2
    assert moved
    assert all(0 < row["rewards/assay/mean"] <= 1 and row["assay/unscored"] == 0 for row in rows)


def test_an_answer_without_reward_is_left_out_or_stops_the_run(tmp_path):
    scorer = Failing(LocalScorer(tiny_model(seed=1), tiny_renderer(), identity="tiny"))
    rows, _ = train("grpo", tmp_path / "none", scorer, on_failure="none")
    assert all(row["assay/unscored"] == 0.25 and np.isfinite(row["reward"]) for row in rows)
    with pytest.raises(RewardError, match="1 of 4"):
        train("grpo", tmp_path / "raise", scorer)
