"""One step of a policy: draw, score, shape, weigh, update. Everything random is set by the seed and the number of the step, so that
a run that goes on after a kill takes the same steps, bit for bit.

Suffixes: P prompts, K answers of a prompt, N = P * K answers, T tokens of answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.prompt_rows import Prompt
from assay.records import Completion, Rewards
from assay.rl import advantages
from assay.rl.kl_control import kl_estimate
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import PolicyModel, PolicyTokens
from assay.rl.loop.rewards_of_steps import rewards_of_steps, steps_of
from assay.rl.loop.rollouts import Rollouts, log_probabilities, parts, sample, sharing, states_of
from assay.rl.loop.surrogate import grpo_losses, ppo_losses, rloo_losses, value_losses
from assay.scorers.base import Scorer

Shape = Callable[[np.ndarray], np.ndarray]
"""From (P, K) rewards to those that are trained on, such as a function of `rl/shaping`."""
_VALUE_WEIGHT = 0.1
_VALUE_CLIP = 0.2
_SHUFFLE = 7  # what a generator is for


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Answers to some prompts and what they are worth. value_PK: what the scorer gave, NaN where it did not; reward_PK: what is
    trained on, without the KL; step_reward_NT: what is trained on in its place where steps are rewarded (`rewards_of_steps`), and
    outcome_PK: beside it, of whole answers (outcome: as it was scored). seconds: of drawing and of scoring."""

    prompts: Sequence[Prompt]
    rollouts: Rollouts
    completions: Sequence[Completion]
    rewards: Rewards
    value_PK: np.ndarray
    reward_PK: np.ndarray
    step_reward_NT: np.ndarray | None = None
    outcome: Rewards | None = None
    outcome_PK: np.ndarray | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def generator_of(*numbers: int) -> torch.Generator:
    """A generator that is set by the seed, the step and what is drawn."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


class Answered(NamedTuple):
    """Answers to P prompts, K to each, side by side: their tokens and what they say. N = P * K."""

    rollouts: Rollouts
    completions: list[Completion]


def answered(
    causal: Any,
    tokens: PolicyTokens,
    prompts: Sequence[Prompt],
    settings: PolicySettings,
    *,
    samples: int,
    generator: torch.Generator,
) -> Answered:
    """Answers of a policy. Raises `Unreadable` for a prompt that the template refuses."""
    rollouts = sample(
        causal,
        [tokens.prompt(prompt.messages) for prompt in prompts],
        samples,
        ends=tokens.ends,
        pad_id=tokens.pad_id,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        generator=generator,
    )
    asked = [prompt for prompt in prompts for _ in range(samples)]
    completions = [
        Completion(
            messages=prompt.messages,
            response=text,
            steps=steps_of(text, settings.step_rewards),
            ground_truth=prompt.ground_truth,
        )
        for prompt, text in zip(asked, tokens.texts(rollouts), strict=True)
    ]
    return Answered(rollouts, completions)


def draw(
    causal: Any,
    tokens: PolicyTokens,
    prompts: Sequence[Prompt],
    scorer: Scorer,
    settings: PolicySettings,
    *,
    samples: int,
    generator: torch.Generator,
    shape: Shape | None = None,
    outcome: Scorer | None = None,
) -> Drawn:
    """Answers of a policy, scored, by `outcome` as whole answers too. Raises `Unreadable` for a prompt that the template
    refuses."""
    began = time.perf_counter()
    rollouts, completions = answered(causal, tokens, prompts, settings, samples=samples, generator=generator)
    drawn = time.perf_counter()
    rewards = scorer.score(completions)
    value_PK = rewards.value.astype(np.float64).reshape(len(prompts), samples)
    reward_PK = np.array(value_PK if shape is None else shape(value_PK))
    is_step = settings.step_rewards is not None
    step_reward_NT = rewards_of_steps(rewards, completions, rollouts, tokens) if is_step else None
    if settings.unfinished is not None:
        cut_N = ~rollouts.finished_N.cpu().numpy() & ~np.isnan(reward_PK.reshape(-1))
        _give(cut_N, settings.unfinished, reward_PK, step_reward_NT, rollouts)
    if settings.empty is not None:
        empty_N = np.array([not (one.response or "").strip() for one in completions])
        _give(empty_N, settings.empty, reward_PK, step_reward_NT, rollouts)
    whole = None if outcome is None else outcome.score(completions)
    outcome_PK = None if whole is None else whole.value.astype(np.float64).reshape(value_PK.shape)
    if outcome_PK is not None and step_reward_NT is not None:  # what lacks one of the two leaves its group
        step_reward_NT[np.isnan(outcome_PK.reshape(-1))] = np.nan
        outcome_PK[np.isnan(step_reward_NT).all(1).reshape(outcome_PK.shape)] = np.nan
    return Drawn(
        prompts=prompts,
        rollouts=rollouts,
        completions=completions,
        rewards=rewards,
        value_PK=value_PK,
        reward_PK=reward_PK,
        step_reward_NT=step_reward_NT,
        outcome=whole,
        outcome_PK=outcome_PK,
        seconds={"drawing": drawn - began, "scoring": time.perf_counter() - drawn},
    )


def _give(which_N: np.ndarray, reward: float, reward_PK: np.ndarray, step_reward_NT: np.ndarray | None, rollouts: Rollouts) -> None:
    """Give some answers a reward of their own in place of what they have; where steps are rewarded, at the last token."""
    reward_PK.reshape(-1)[which_N] = reward
    if step_reward_NT is not None:
        last_N = np.maximum(rollouts.mask_NT.sum(1).cpu().numpy() - 1, 0)
        step_reward_NT[which_N] = np.nan
        step_reward_NT[which_N, last_N[which_N]] = reward


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What an update takes. then_NT, reference_NT: log-probabilities of the policy that drew, and of the frozen one. advantage_N
    (rloo, grpo) or advantage_NT (grpo of steps, ppo), return_NT and value_NT (ppo). kl_N: summed k1 of each answer. places: the
    answers with an advantage other than 0, or all where the loss has a KL of its own."""

    then_NT: torch.Tensor
    reference_NT: torch.Tensor
    advantage: torch.Tensor
    return_NT: torch.Tensor | None
    value_NT: torch.Tensor | None
    kl_N: np.ndarray
    log_ratio_NT: np.ndarray
    places: torch.Tensor
    num_counted: int


def weigh(model: PolicyModel, drawn: Drawn, settings: PolicySettings, beta: float) -> Weighed:
    """Advantages of the answers, with the KL where the estimator has it."""
    rollouts, mask_NT = drawn.rollouts, drawn.rollouts.mask_NT
    then_NT = model.log_probabilities(rollouts, settings.temperature)
    reference_NT = model.log_probabilities(rollouts, settings.temperature, reference=True)
    log_ratio_NT = (then_NT - reference_NT).double().cpu().numpy()
    kl_N = log_ratio_NT.sum(1)
    reward_PK = drawn.reward_PK
    value_NT = return_NT = None
    if settings.estimator == "ppo":
        value_NT = model.values(rollouts)
        advantage, return_NT, counted_N = _of_tokens(drawn, settings, beta, log_ratio_NT, value_NT)
    elif drawn.step_reward_NT is not None:
        found_NT = advantages.grpo_of_steps(drawn.step_reward_NT.reshape(*reward_PK.shape, -1)).reshape(then_NT.shape)
        if drawn.outcome_PK is not None:
            found_NT = found_NT + advantages.grpo(drawn.outcome_PK).reshape(-1, 1)
        counted_N = ~np.isnan(found_NT).all(1)
        advantage = _tensor(np.nan_to_num(found_NT), then_NT)
    else:
        penalty_PK = beta * kl_N.reshape(reward_PK.shape) if settings.estimator == "rloo" else 0.0
        estimate = advantages.rloo if settings.estimator == "rloo" else advantages.grpo
        advantage_N = estimate(reward_PK - penalty_PK).reshape(-1)
        counted_N = ~np.isnan(advantage_N)
        advantage = _tensor(np.nan_to_num(advantage_N), then_NT)
    moves_N = counted_N if settings.estimator != "rloo" else counted_N & (advantage.cpu().numpy() != 0)
    return Weighed(
        then_NT=then_NT,
        reference_NT=reference_NT,
        advantage=advantage * mask_NT if advantage.ndim == 2 else advantage,
        return_NT=return_NT,
        value_NT=value_NT,
        kl_N=kl_N,
        log_ratio_NT=log_ratio_NT,
        places=torch.from_numpy(np.flatnonzero(moves_N)).to(then_NT.device),
        num_counted=int(counted_N.sum()),
    )


def update(
    model: PolicyModel,
    optimizer: torch.optim.Optimizer,
    drawn: Drawn,
    weighed: Weighed,
    settings: PolicySettings,
    beta: float,
    step: int,
) -> dict[str, float]:
    """Go through the answers `passes` times in `minibatches` parts, an optimizer step each; what the losses were. An update whose
    gradient is not finite is left out and counted: it would end the policy."""
    losses, norms, skipped, clipped = [], [], 0, []
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for part in range(settings.passes):
        shuffled = torch.randperm(len(weighed.places), generator=generator_of(settings.seed, step, _SHUFFLE, part))
        order = weighed.places[shuffled.to(weighed.places.device)]
        for minibatch in order.tensor_split(settings.minibatches) if len(order) else ():
            if not len(minibatch):
                continue
            optimizer.zero_grad(set_to_none=True)
            share = len(weighed.places) / len(minibatch)
            total, far = _backward(model, drawn.rollouts, weighed, minibatch, settings, beta, share / max(weighed.num_counted, 1))
            norm = float(torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm))
            if not np.isfinite(norm):
                skipped += 1
                continue
            optimizer.step()
            losses.append(total)
            norms.append(norm)
            clipped.append(far)
    optimizer.zero_grad(set_to_none=True)
    nothing = float("nan")
    return {
        "loss": float(np.mean(losses)) if losses else nothing,
        "gradient": float(np.mean(norms)) if norms else nothing,
        "clipped": float(np.mean(clipped)) if clipped else nothing,
        "updates_skipped": float(skipped),
    }


def _backward(
    model: PolicyModel,
    rollouts: Rollouts,
    weighed: Weighed,
    minibatch: torch.Tensor,
    settings: PolicySettings,
    beta: float,
    weight: float,
) -> tuple[float, float]:
    """Gradients of a minibatch, a part at a time; its loss, and the share of answers (rloo) or tokens whose ratio was clipped."""
    total, far, seen = 0.0, 0.0, 0.0
    mean_tokens = float(rollouts.mask_NT[weighed.places].sum()) / max(len(weighed.places), 1)
    chosen = Rollouts(*(one[minibatch] for one in rollouts))
    for local in parts(chosen, model.vocabulary, shared=sharing(model.plain, chosen) is not None):
        places = minibatch[local]
        some = rollouts.rows(places)
        width = some.answer_NT.shape[1]
        then_NT, mask_NT = weighed.then_NT[places, :width], some.mask_NT
        with model.autocast():
            states_NTD = states_of(model.plain, some)
            now_NT = log_probabilities(model.plain, states_NTD, some, settings.temperature)
        if settings.estimator == "rloo":
            losses_N = rloo_losses(now_NT, then_NT, mask_NT, weighed.advantage[places], settings.clip)
        elif settings.estimator == "grpo":
            reference_NT = weighed.reference_NT[places, :width]
            advantage_NT = weighed.advantage[places]
            advantage_NT = advantage_NT[:, :width] if advantage_NT.ndim == 2 else advantage_NT[:, None]
            losses_N = grpo_losses(now_NT, then_NT, reference_NT, mask_NT, advantage_NT, settings.clip, beta)
        else:
            losses_N = ppo_losses(now_NT, then_NT, mask_NT, weighed.advantage[places, :width], settings.clip) / mean_tokens
            assert model.value_head is not None
            assert weighed.value_NT is not None
            assert weighed.return_NT is not None
            value_NT = model.value_head(states_NTD.detach().float())[..., 0]
            olds = (weighed.value_NT[places, :width], weighed.return_NT[places, :width])
            losses_N = losses_N + _VALUE_WEIGHT * value_losses(value_NT, *olds, mask_NT, _VALUE_CLIP) / mean_tokens
        loss = losses_N.sum() * weight
        loss.backward()
        total += float(loss.detach())
        ratio = ((now_NT - then_NT) * mask_NT).detach()
        ratio = ratio.sum(1).exp() if settings.estimator == "rloo" else ratio[mask_NT].exp()
        far += float(((ratio - 1).abs() > settings.clip).sum())
        seen += ratio.numel()
    return total, far / max(seen, 1.0)


def _of_tokens(
    drawn: Drawn, settings: PolicySettings, beta: float, log_ratio_NT: np.ndarray, value_NT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """(N, T) advantages and returns of tokens: -beta k1 at each, the reward at the last, or each step's at its last with what the
    whole answer has at the end; which answers have a reward."""
    mask_NT = drawn.rollouts.mask_NT.cpu().numpy()
    reward_N, steps_NT = drawn.reward_PK.reshape(-1), drawn.step_reward_NT
    counted_N = ~np.isnan(reward_N) if steps_NT is None else ~np.isnan(steps_NT).all(1)
    mask_NT = mask_NT & counted_N[:, None]
    rewards_NT = -beta * np.where(mask_NT, log_ratio_NT, 0.0)
    if steps_NT is not None:
        rewards_NT += np.nan_to_num(steps_NT)
    at_end_N = reward_N if steps_NT is None else None if drawn.outcome_PK is None else drawn.outcome_PK.reshape(-1)
    if at_end_N is not None:
        last_N = np.maximum(mask_NT.sum(1) - 1, 0)
        rewards_NT[np.arange(len(reward_N)), last_N] += np.where(counted_N, at_end_N, 0.0)
    values_NT = value_NT.double().cpu().numpy()
    found_NT = advantages.gae(rewards_NT, values_NT, mask_NT, decay=settings.decay)
    returns_NT = np.where(mask_NT, found_NT + values_NT, 0.0)
    return _tensor(advantages.whitened(found_NT, mask_NT), value_NT), _tensor(returns_NT, value_NT), counted_N


def step_figures(drawn: Drawn, weighed: Weighed) -> dict[str, float]:
    """What a step's answers were like, for metrics.jsonl; NaN where nothing could be measured."""
    tokens_N = drawn.rollouts.mask_NT.sum(1).cpu().numpy()
    scored_N = drawn.rewards.ok
    spread_P = np.array([np.nanstd(row) if (~np.isnan(row)).sum() > 1 else np.nan for row in drawn.value_PK])
    k3_NT = kl_estimate(weighed.log_ratio_NT, "k3")
    figures = {
        "reward": _mean(drawn.value_PK),
        "reward_std_in_prompt": _mean(spread_P),
        "same_reward": float(np.mean(spread_P[~np.isnan(spread_P)] == 0)) if (~np.isnan(spread_P)).any() else float("nan"),
        "scored": float(scored_N.mean()),
        "kl": float(weighed.kl_N.mean()),
        "kl_k3": float(k3_NT.sum(1).mean()),
        "tokens": float(tokens_N.mean()),
        "finished": float(drawn.rollouts.finished_N.float().mean()),
        "entropy": float(-(weighed.then_NT.sum() / drawn.rollouts.mask_NT.sum())),
    }
    if drawn.outcome_PK is not None:
        figures["outcome"] = _mean(drawn.outcome_PK)
    if drawn.rewards.std is not None:
        figures["member_std"] = _mean(np.asarray(drawn.rewards.std))
    return figures


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def _tensor(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values).to(like.device, torch.float32)
