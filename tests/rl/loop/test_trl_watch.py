"""The callback in real trainers of TRL: beta follows the KL, the alarm fires for a policy that is led astray, and for no other."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from assay.rl.kl_control import KLSettings
from assay.rl.loop.trl_watch import trl_watch
from assay.scorers.rules import rule_scorer
from policy_worlds import ARMS, bandit_base, payout

trl = pytest.importorskip("trl")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return bandit_base(tmp_path_factory.mktemp("base") / "base")


def said(words):
    def reward(completions, **columns):
        return [float(one[0]["content"] in words) for one in completions]

    return reward


def trainer_of(kind, base, out, *, words=("blue",), beta=0.05, steps=12, **settings):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = trl.RLOOConfig if kind == "rloo" else trl.GRPOConfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = config(
            output_dir=str(out),
            num_generations=8,
            per_device_train_batch_size=16,
            max_completion_length=4,
            max_steps=steps,
            learning_rate=4e-3,
            lr_scheduler_type="constant",
            beta=beta,
            use_cpu=True,
            bf16=False,
            report_to=[],
            logging_steps=1,
            save_strategy="no",
            gradient_checkpointing=False,
            disable_tqdm=True,
            **settings,
        )
        make = trl.RLOOTrainer if kind == "rloo" else trl.GRPOTrainer
        return make(
            model=AutoModelForCausalLM.from_pretrained(base),
            reward_funcs=said(words),
            processing_class=AutoTokenizer.from_pretrained(base, padding_side="left"),
            train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "pull"}]] * 64}),
            args=arguments,
        )


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_beta_rises_while_the_kl_is_above_its_target(kind, base, tmp_path):
    trainer = trainer_of(kind, base, tmp_path)
    watch = trl_watch(trainer, kl=KLSettings(control="ziegler", beta=0.05, target=1e-4, gain=1.0))
    trainer.add_callback(watch)
    trainer.train()
    assert trainer.beta > 0.05 * 1.1
    assert watch.kl.step > 0


def test_the_five_lines_of_the_documentation_run(base, tmp_path):
    section = (Path(__file__).parents[3] / "docs" / "rl.md").read_text(encoding="utf-8").partition("## In TRL")[2]
    shown = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert len(shown) == 5
    assert shown[0].startswith("trainer = GRPOTrainer(")  # with what is the reader's own left out
    names = {"trl_watch": trl_watch, "KLSettings": KLSettings, "judge": rule_scorer(payout), "held_out": ["pull"]}
    names["trainer"] = trainer = trainer_of("grpo", base, tmp_path, steps=20)
    exec("\n".join(shown[1:]), names)
    watch = names["watch"]
    assert trainer.state.global_step == 20
    assert watch.ground.against["the start"].num == 32  # one comparison of 20 steps
    assert watch.kl.step > 0
    assert trainer.beta != 0.05


def test_a_policy_that_is_led_from_what_the_anchor_wants_alarms_and_ends(base, tmp_path):
    trainer = trainer_of("rloo", base, tmp_path, words=("red",), beta=1e-3, steps=60)
    watch = trl_watch(trainer, anchor=rule_scorer(payout), prompts=["pull"], every=5, num_prompts=48, stop=True)
    trainer.add_callback(watch)
    trainer.train()
    assert watch.ground.alarmed
    assert trainer.state.global_step < 60


def test_a_policy_that_learns_what_the_anchor_wants_does_not(base, tmp_path):
    trainer = trainer_of("rloo", base, tmp_path, beta=1e-3, steps=30)
    watch = trl_watch(trainer, anchor=rule_scorer(payout), prompts=[[{"role": "user", "content": "pull"}]], every=5, stop=True)
    trainer.add_callback(watch)
    trainer.train()
    assert trainer.state.global_step == 30
    assert not watch.ground.alarmed
    assert watch.ground.against["the start"].num == 6 * 32


def test_a_trainer_without_a_reference_and_an_anchor_without_prompts_are_refused(base, tmp_path):
    trainer = trainer_of("grpo", base, tmp_path, beta=0.0)
    with pytest.raises(ValueError, match="any beta above 0"):
        trl_watch(trainer, kl=KLSettings())
    with pytest.raises(ValueError, match="no reference to compare"):
        trl_watch(trainer, anchor=rule_scorer(payout), prompts=list(ARMS))
    with pytest.raises(ValueError, match="not trained on"):
        trl_watch(trainer, anchor=rule_scorer(payout))
