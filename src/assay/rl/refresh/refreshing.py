"""A policy trained against a reward model that is trained anew when the policy has outrun it: a machine of a dozen states.

    gather -> policy -> choose -> label -> train -> gate -> rescale -> promote -> move -> policy ... -> done
                                                      | worse: -> move, or stopped

The state on the disk says which action is next. It is written before the action, and each action can be done again: what ends the
process costs at most the action that was at work, and no label (the journal of `new_labels`) and no step of training that had been
checkpointed. Nothing is decided from what is in memory.

Iterated RLHF: Wolf, Kirk and Musolesi, "Reward Model Overoptimisation in Iterated RLHF" (arXiv 2505.18126).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.console import say
from assay.data.pairs import read_pairs, write_pairs
from assay.data.raw.rows import slug
from assay.errors import RewardError
from assay.models.bases import resolve_base
from assay.models.device import pick_compute
from assay.records import Dtype
from assay.rl.evaluations import EVALUATIONS, read_evaluations
from assay.rl.loop.beginnings import Beginning
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.train_policy import CONFIG, PolicyRun, train_policy
from assay.rl.refresh.new_labels import LABELLED, by_people, by_scorer, labelled_pairs_of
from assay.rl.refresh.new_pairs import PAIRS, SAME, Source, choose_pairs
from assay.rl.refresh.new_reward import (
    PROMOTED,
    REWARD,
    gate_pairs,
    gather_old,
    held_against,
    new_config,
    promote_in_service,
    rescaled,
    roll_back_in_service,
    train_new,
    trainable,
)
from assay.rl.refresh.refresh_settings import PEOPLE, RefreshRun
from assay.rl.refresh.refresh_state import (
    DATA,
    ENDS,
    State,
    Waiting,
    read_state,
    round_path,
    settled,
    stretch_path,
    write_state,
)
from assay.run_files import only_run
from assay.scorers.base import HasBill, capability
from assay.scorers.opened import open_scorer
from assay.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """state: where the refresh is. waiting: what people have to do before it goes on, None where it has ended."""

    state: State
    waiting: str | None = None


def refresh(run: RefreshRun, *, roll_back: int | None = None) -> Refreshed:
    """Train, refresh and train on until the policy has taken its steps; goes on where an earlier call was stopped.

    roll_back: number of a refresh whose reward model is taken back first. Raises ValueError for what cannot be, CheckpointError for
    a run that was begun with other settings, RewardError where labels are missing, TrainingError where training has to stop.
    """
    config = trainable(run.reward)
    if config.base is not None:
        resolve_base(config.base)  # one that is gone is told now, not when the labels are there
    with only_run(run.out):
        run, state = _begun(run)
        if roll_back is not None:
            state = asked_back(state, roll_back)
            write_state(run.out, state)
        while state.doing not in ENDS:
            outcome = ACTIONS[state.doing](run, state)
            if isinstance(outcome, Waiting):
                return Refreshed(state=state, waiting=outcome.told)
            write_state(run.out, outcome)
            state = outcome
        return Refreshed(state=state)


def _begun(run: RefreshRun) -> tuple[RefreshRun, State]:
    """The run in one number format, measured once, and where it is."""
    run.out.mkdir(parents=True, exist_ok=True)
    compute = pick_compute(run.device, run.dtype)
    is_new, name = settled(run.out, run.identity, compute.name)
    dtype: Dtype = name if run.dtype == "auto" else compute.name  # type: ignore[assignment]
    run = replace(run, device=str(compute.device), dtype=dtype)
    state = None if is_new else read_state(run.out)
    if state is None:
        state = State()
        write_state(run.out, state)
    else:
        say("refresh", f"goes on at {state.doing}" + (f", round {state.round}" if state.round else ""))
    return run, state


def asked_back(state: State, number: int) -> State:
    """The state in which the promotion of that refresh is taken back; the same where that is done or being done already."""
    if state.doing == "roll-back":
        return state
    named = [one for one in (*state.rounds, state.now) if one.get("round") == number and one.get("promoted")]
    if not named:
        there = [str(one["round"]) for one in state.rounds if one.get("promoted") and not one.get("rolled back")]
        known = f"promoted were {', '.join(there)}" if there else "none was promoted"
        raise ValueError(f"refresh {number} has no reward model that could be taken back: {known}")
    if named[0].get("rolled back"):
        return state
    rounds = tuple(one for one in (*state.rounds, state.now) if one)
    return replace(state, doing="roll-back", rounds=rounds, now={"back to before": number})


def gather(run: RefreshRun, state: State) -> State:
    num = gather_old(run.reward, run.out / DATA)
    say("old data", f"{num:,} pairs of {run.reward.name}")
    return replace(state, doing="policy")


def train_stretch(run: RefreshRun, state: State) -> State:
    """Train the policy under the reward model in use until something asks for a refresh, or to its end."""
    out, begin, settings = stretch_path(run.out, state.stretch), state.begin, run.settings
    if out.is_dir() and not (out / CONFIG).is_file():
        shutil.rmtree(out)  # of a process that ended as it made it
    first = 0 if begin is None else int(begin["step"])
    more = len(state.rounds) < settings.rounds
    opened = open_scorer(_reward(run, state), device=run.device, dtype=run.dtype)
    trained = train_policy(
        PolicyRun(
            policy=run.policy,
            scorer=opened.scorer,
            scorer_name=state.reward or run.reward.name,
            prompts=run.prompts,
            held_out=run.held_out,
            out=out,
            settings=run.policy_settings,
            gold=run.gold,
            anchor=run.anchor,
            resume=out.is_dir(),
            begin=None if begin is None else _beginning(run, begin),
            stop_on_alarm=more and settings.at_alarm,
            stop_at=first + settings.every if more and settings.every is not None else None,
            stop_kl=_distance(begin) + settings.kl_budget if more and settings.kl_budget is not None else None,
            device=run.device,
            dtype=run.dtype,
        )
    )
    if trained.stopped is None:
        return replace(state, doing="done")
    number = len(state.rounds) + 1
    stop = {"why": trained.stopped, "step": trained.steps, "kl": _kl_at(out, trained.steps)}
    now = {"round": number, "stretch": state.stretch, **stop, "reward before": state.reward}
    return replace(state, doing="choose", round=number, stop=stop, now=now)


def choose(run: RefreshRun, state: State) -> State:
    """Draw new pairs from the policy as it is where it stopped, and as it was halfway."""
    settings, folder = run.policy_settings, round_path(run.out, state.round)
    model = load_policy(
        run.policy, params=settings.params, compute=pick_compute(run.device, run.dtype), with_values=settings.estimator == "ppo"
    )
    source = Source(stretch_path(run.out, state.stretch), _stop(state)["step"])
    counts = choose_pairs(
        model,
        source,
        run.prompts,
        settings,
        num=run.settings.pairs,
        number=state.round,
        seed=settings.seed,
        out=folder / PAIRS,
    )
    same = counts.pop(SAME, 0)
    silent = f"; {same:,} prompts with one answer, or none" if same else ""
    say("new pairs", ", ".join(f"{num:,} against {kind}" for kind, num in counts.items()) + silent)
    return state.then("label", pairs=sum(counts.values()), **{"prompts without a pair": same})


def label(run: RefreshRun, state: State) -> State | Waiting:
    """Labels of the new pairs; of people those that they have filled in."""
    folder = round_path(run.out, state.round)
    pairs = list(read_pairs(folder / PAIRS, strict=True))
    if run.labeller is None:
        said, name = by_people(pairs, folder, seed=run.policy_settings.seed), PEOPLE
        if isinstance(said, Waiting):
            return said
    else:
        scorer = run.labeller()
        said, name = by_scorer(scorer, pairs, folder, max_unlabelled=run.settings.max_unlabelled), scorer.fingerprint
        if (billed := capability(scorer, HasBill)) is not None:
            say("bill", billed.bill())
    found = labelled_pairs_of(pairs, said, labeller=name, policy=Path(run.policy).name)
    if not found.pairs:
        raise RewardError(f"none of the {len(pairs):,} new pairs has a label ({found.summary()}): take another labeller")
    write_pairs(folder / LABELLED, found.pairs)
    say("labelled", f"{len(found.pairs):,} of {len(pairs):,} new pairs")
    return state.then("train", labelled=len(found.pairs), **{"not labelled": dict(found.unwritten)})


def train(run: RefreshRun, state: State) -> State:
    """A new reward model on all pairs: those of the first one, and those of every round."""
    train_new(_new_config(run, state))
    return state.then("gate")


def gate(run: RefreshRun, state: State) -> State:
    """Is the new model worse than the one in use, on pairs that neither was trained on."""
    folder, pairs = round_path(run.out, state.round), gate_pairs(_new_config(run, state))
    result = held_against(
        _reward(run, state),
        folder / REWARD,
        pairs,
        run.settings,
        folder,
        device=run.device,
        dtype=run.dtype,
        seed=run.policy_settings.seed,
    )
    whole = result.whole
    figures = {"accuracy before": whole.a, "accuracy": whole.b, "change": whole.difference, "low": whole.low, "high": whole.high}
    passed = whole.n_scored > 0 and not result.is_worse
    lead = result.report().lead
    fate = "It takes the place of the one in use." if passed else f"It is not promoted, and kept in {folder / REWARD}."
    say("gate", f"{lead} {fate}")
    if passed:
        return state.then("rescale", gate=lead, promoted=False, **figures)
    return state.then("move" if run.settings.when_worse == "go-on" else "stopped", gate=lead, promoted=False, **figures)


def rescale(run: RefreshRun, state: State) -> State:
    """The new model on the scale of the one in use, so that the KL coefficient means the same."""
    folder, pairs = round_path(run.out, state.round), gate_pairs(_new_config(run, state))
    result = rescaled(
        _reward(run, state),
        folder / REWARD,
        pairs,
        folder / PROMOTED,
        device=run.device,
        dtype=run.dtype,
        seed=run.policy_settings.seed,
    )
    warned = [one.why for one in result.findings if one.level != "ok"]
    say("scale", result.findings[0].why)
    return state.then("promote", factor=result.factor.value, **{"scale warnings": warned})


def promote(run: RefreshRun, state: State) -> State:
    """The rescaled model is the one in use; in the service too, where there is one."""
    path = round_path(run.out, state.round) / PROMOTED
    if run.service is not None:
        promote_in_service(run.service, path, _served_name(run, state.round))
    return replace(state.then("move", promoted=True), reward=str(path.relative_to(run.out)))


def move(run: RefreshRun, state: State) -> State:
    """Where the policy begins its next stretch. Under the old reward model it goes on: from anywhere before it would only do again
    what it did."""
    step, how = int(_stop(state)["step"]), run.settings.then if state.now["promoted"] else "go-on"
    here = stretch_path(run.out, state.stretch)
    half = Source(here, step).earlier
    begin: Mapping[str, object] | None
    if how == "go-on":
        begin = {"stretch": state.stretch, "step": step, "whole": True, "kl": _stop(state)["kl"]}
    elif how == "back" and half:
        begin = {"stretch": state.stretch, "step": half, "whole": False, "kl": _kl_at(here, half)}
    else:
        begin = None
    at = 0 if begin is None else begin["step"]
    say("policy", f"begins at step {at} of {step}")
    now = {**state.now, "then": how, "from": at}
    return replace(state, doing="policy", stretch=state.stretch + 1, begin=begin, stop=None, now={}, rounds=(*state.rounds, now))


def roll_back(run: RefreshRun, state: State) -> State:
    """The reward model before that refresh is the one in use again, and the policy goes on from where it stopped for it."""
    number = state.now["back to before"]
    back = next(one for one in state.rounds if one["round"] == number)
    later = [one["round"] for one in state.rounds if one["round"] > number and one.get("promoted") and not one.get("rolled back")]
    if run.service is not None:
        if later:
            raise ValueError(f"the service keeps one model before the current one: roll back refresh {later[-1]} first")
        roll_back_in_service(run.service, _served_name(run, number))
    rounds = tuple({**one, "rolled back": True} if one["round"] in (number, *later) else one for one in state.rounds)
    begin = {"stretch": back["stretch"], "step": back["step"], "whole": True, "kl": back["kl"]}
    say("rolled back", f"refresh {number}: the reward model before it is in use")
    num_stretches = len(list((run.out / "policy").glob("[0-9][0-9]")))
    return replace(
        state, doing="policy", stretch=num_stretches, reward=back["reward before"], begin=begin, stop=None, now={}, rounds=rounds
    )


ACTIONS: Mapping[str, Callable[[RefreshRun, State], State | Waiting]] = {
    "gather": gather,
    "policy": train_stretch,
    "choose": choose,
    "label": label,
    "train": train,
    "gate": gate,
    "rescale": rescale,
    "promote": promote,
    "move": move,
    "roll-back": roll_back,
}


def _reward(run: RefreshRun, state: State) -> Path:
    """The reward model in use."""
    return run.reward if state.reward is None else run.out / state.reward


def _new_config(run: RefreshRun, state: State) -> TrainConfig:
    """How the reward model of this round is trained: on the old data and the labels of all rounds that have some."""
    labels = [round_path(run.out, number) / LABELLED for number in range(1, state.round + 1)]
    out = round_path(run.out, state.round) / REWARD
    there = [path for path in labels if path.is_file()]
    return new_config(run.reward, run.out / DATA, there, out, device=run.device, dtype=run.dtype)


def _beginning(run: RefreshRun, begin: Mapping[str, Any]) -> Beginning:
    return Beginning(run=stretch_path(run.out, begin["stretch"]), step=begin["step"], whole=begin["whole"])


def _stop(state: State) -> Mapping[str, Any]:
    assert state.stop is not None, f"{state.doing} comes after the policy has stopped"
    return state.stop


def _distance(begin: Mapping[str, Any] | None) -> float:
    """Nats an answer at which the policy began; 0 where none were measured."""
    nats = 0.0 if begin is None else float(begin["kl"])
    return nats if nats > 0 else 0.0  # not NaN, and no estimate below 0


def _kl_at(out: Path, steps: int) -> float:
    """Mean KL of the held-out answers at the look after so many steps; NaN without held-out prompts."""
    if not (out / EVALUATIONS).is_file():
        return math.nan
    found = read_evaluations(out)
    at = np.flatnonzero(found.steps == steps - 1)
    return float(np.nanmean(found.kl_EP[at[-1]])) if len(at) else math.nan


def _served_name(run: RefreshRun, number: int) -> str:
    return f"{slug(run.out.name)}-{number:02d}"
