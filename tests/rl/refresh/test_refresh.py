"""A refresh from end to end: the same end whatever is killed, no label twice, a gate, people, a step back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from assay.cli import main
from assay.commands.rl import refresh as refresh_command
from assay.data.pairs import read_pairs
from assay.errors import CheckpointError, RewardError
from assay.evaluation.compare import compare_margins
from assay.evaluation.pair_scores import score_pairs
from assay.evaluation.scale import measure_scale
from assay.records import Rewards
from assay.rl.loop.beginnings import Beginning
from assay.rl.loop.train_policy import PolicyRun, Trained, read_metrics
from assay.rl.refresh import new_reward, refreshing
from assay.rl.refresh.new_reward import gather_old, new_config
from assay.rl.refresh.refresh_result import refresh_result
from assay.rl.refresh.refresh_settings import RefreshSettings, ServedModel
from assay.rl.refresh.refresh_state import State, read_state, stretch_path, write_state
from assay.rl.refresh.refreshing import Refreshed, asked_back, move, refresh
from assay.run_files import read_description
from assay.scorers.opened import open_scorer
from assay.training.record import config_of_run
from refresh_world import Counting, a_refresh

pytestmark = pytest.mark.slow
STATES = ("gather", "policy", "choose", "label", "train", "gate", "rescale", "promote", "move", "policy", "done")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A refresh that nothing stopped: its run, its end, and the states that were written."""
    written = []
    out = tmp_path_factory.mktemp("whole") / "run"
    labeller = Counting()
    run = a_refresh(world, out, labeller=labeller)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refreshing, "write_state", lambda out, state: (written.append(state.doing), write_state(out, state)))
        done = refresh(run)
    return run, done, written, labeller


def ended(out: Path) -> dict:
    """What a refresh came to, but for times: its state, its labels, its reward models and its policy."""
    state = read_state(out)
    assert state is not None
    policy = stretch_path(out, state.stretch)
    rows = [{name: one for name, one in row.items() if name != "seconds"} for row in read_metrics(policy)]
    weights = {name: one.sum().item() for name, one in load_file(policy / "policy" / "model.safetensors").items()}
    return {
        "state": state,
        "rows": json.dumps(rows),
        "weights": weights,
        "labels": (out / "rounds" / "01" / "labelled.jsonl").read_text(),
        "reward": read_description(out / "rounds" / "01" / "promoted")["fingerprint"],
    }


def test_each_state_is_written_before_its_action_and_the_policy_ends_under_the_new_reward_model(whole, world):
    run, done, written, _ = whole
    assert tuple(written) == STATES
    assert done.waiting is None
    state = read_state(run.out)
    assert state == done.state
    assert (state.doing, state.stretch, state.reward) == ("done", 1, "rounds/01/promoted")
    (one,) = state.rounds
    assert (one["why"], one["step"], one["pairs"], one["promoted"]) == ("schedule", 2, 24, True)
    assert one["labelled"] + sum(one["not labelled"].values()) == 24
    first, second = (read_metrics(stretch_path(run.out, i)) for i in (0, 1))
    assert [row["step"] for row in second] == [0, 1, 2, 3]  # the steps before the refresh stand in the second directory too
    assert second[:2] == first
    trained = json.loads((run.out / "rounds" / "01" / "reward" / "config.json").read_text())["config"]["data"]
    assert [Path(name).name for name in trained] == ["old.jsonl", "labelled.jsonl"]
    assert refresh(run).state == state  # again: nothing is left to do
    page = refresh_result(run, state, title="Refresh").report()
    assert page.tables[0].rows[0][:3] == (1, "schedule", 2)
    assert page.lead.startswith("1 refresh, 1 new reward model")


def test_the_scale_is_by_the_margins_of_the_gate_which_are_those_of_the_two_models(whole):
    run, done, _, _ = whole
    folder = run.out / "rounds" / "01"
    pairs = list(config_of_run(folder / "reward").run_data.pairs("test"))
    kept = np.load(folder / "margins.npy", allow_pickle=False)
    for of_model, path in zip(kept, (run.reward, folder / "reward"), strict=True):
        np.testing.assert_allclose(
            of_model, score_pairs(open_scorer(path, device="cpu", dtype="float32").raw, pairs).margins, atol=1e-5
        )
    factor = done.state.rounds[0]["factor"]
    assert factor == pytest.approx(measure_scale(*kept, pairs, title="", seed=run.policy_settings.seed).factor.value)


def test_half_of_the_pairs_are_against_an_earlier_policy_and_labels_are_those_of_gold(whole):
    run, _, _, labeller = whole
    chosen = list(read_pairs(run.out / "rounds" / "01" / "pairs.jsonl", strict=True))
    assert [sum(pair.tags["against"] == kind for pair in chosen) for kind in ("current", "earlier")] == [12, 12]
    assert all(pair.preference == 0.5 and pair.chosen.strip() != pair.rejected.strip() for pair in chosen)
    assert sorted(labeller.asked) == sorted(f"{pair.id}:{side}" for pair in chosen for side in ("chosen", "rejected"))
    labelled = {pair.id: pair for pair in read_pairs(run.out / "rounds" / "01" / "labelled.jsonl", strict=True)}
    for pair in chosen:
        values = labeller_values(pair)
        if values[0] == values[1]:
            assert pair.id not in labelled  # a tie is counted and not written
        else:
            assert labelled[pair.id].chosen == (pair.chosen if values[0] > values[1] else pair.rejected)


def labeller_values(pair) -> list[float]:
    return Counting().score(pair.completions()).value.tolist()


def test_killed_at_every_state_it_comes_to_the_same_end_with_each_label_asked_for_once(whole, world, tmp_path, monkeypatch):
    """The process ends before each state is written, when its action is done and nothing says so: every action is done twice."""
    out, labeller, deaths = tmp_path / "run", Counting(), []

    def dies_before(out: Path, state: State) -> None:
        if state not in deaths:
            deaths.append(state)
            raise KeyboardInterrupt
        write_state(out, state)

    monkeypatch.setattr(refreshing, "write_state", dies_before)
    for _ in range(2 * len(STATES)):
        try:
            refresh(a_refresh(world, out, labeller=labeller))
            break
        except KeyboardInterrupt:
            continue
    assert tuple(state.doing for state in deaths) == STATES
    assert ended(out) == ended(whole[0].out)
    assert sorted(labeller.asked) == sorted(whole[3].asked)


def test_killed_among_the_labels_only_those_that_are_missing_are_asked_for(whole, world, tmp_path, monkeypatch):
    """From the state of a refresh that was stopped there; the journal has a line that was cut off."""
    out = tmp_path / "run"
    copy_until(whole[0].out, out, "label")
    monkeypatch.setattr("assay.rl.refresh.new_labels._AT_ONCE", 5)
    monkeypatch.setattr(refreshing, "train", lambda run, state: (_ for _ in ()).throw(Stop()))
    monkeypatch.setitem(refreshing.ACTIONS, "train", refreshing.train)
    first, second = Counting(dies_at=3), Counting()
    with pytest.raises(KeyboardInterrupt):
        refresh(a_refresh(world, out, labeller=first))
    with (out / "rounds" / "01" / "labels.jsonl").open("a") as file:
        file.write('{"id": "refresh-1-cur')
    with pytest.raises(Stop):
        refresh(a_refresh(world, out, labeller=second))
    assert len(first.asked) == 2 * 5 * 2
    assert sorted(first.asked + second.asked) == sorted(whole[3].asked)
    assert (out / "rounds" / "01" / "labelled.jsonl").read_bytes() == (
        whole[0].out / "rounds" / "01" / "labelled.jsonl"
    ).read_bytes()


class Stop(Exception):
    """Ends a test where nothing more is looked at."""


def copy_until(source: Path, out: Path, doing: str) -> None:
    """A refresh as it was when that state had been written."""
    shutil.copytree(source, out)
    state = read_state(source)
    (one,) = state.rounds
    kept = {
        name: one[name] for name in ("round", "stretch", "why", "step", "kl", "reward before", "pairs", "prompts without a pair")
    }
    stop = {name: one[name] for name in ("why", "step", "kl")}
    write_state(out, State(doing=doing, round=1, stop=stop, now=kept))
    shutil.rmtree(out / "policy" / "01")
    for name in ("labels.jsonl", "labelled.jsonl"):
        (out / "rounds" / "01" / name).unlink()


def test_a_labeller_that_is_away_stops_it_with_the_reason_and_the_labels_so_far(whole, world, tmp_path):
    out = tmp_path / "run"
    copy_until(whole[0].out, out, "label")
    with pytest.raises(RewardError, match=r"24 of 24 new pairs have no label \(no route to host\); 0 labels are kept"):
        refresh(a_refresh(world, out, labeller=Away()))
    assert read_state(out).doing == "label"


class Away:
    fingerprint, scope, tolerance = "away", "global", 0.0

    def score(self, completions):
        return Rewards(value=[float("nan")] * len(completions), error=("no route to host",) * len(completions))


def test_people_get_a_file_and_the_same_call_goes_on_when_it_is_filled(whole, world, tmp_path, monkeypatch):
    out = tmp_path / "run"
    copy_until(whole[0].out, out, "label")
    settings = json.loads((out / "refresh.json").read_text())
    (out / "refresh.json").write_text(json.dumps({**settings, "labeller": "people"}))
    monkeypatch.setitem(refreshing.ACTIONS, "train", lambda run, state: (_ for _ in ()).throw(Stop()))
    run = replace(a_refresh(world, out), labeller=None, labeller_name="people")
    waiting = refresh(run)
    file = out / "rounds" / "01" / "to_label.jsonl"
    assert f"24 pairs wait for their labels in {file}" in waiting.waiting
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert set(rows[0]) == {"id", "prompt", "a", "b", "better"}
    choices = ["a", "b", "tie", "skip"] * 6
    half = [{**row, "better": choice} for row, choice in zip(rows[:12], choices, strict=False)] + rows[12:]
    file.write_text("\n".join(json.dumps(row) for row in half))
    assert "12 of 24 pairs" in refresh(run).waiting
    assert read_state(out).doing == "label"
    file.write_text("\n".join(json.dumps({**row, "better": choice}) for row, choice in zip(rows, choices, strict=True)))
    with pytest.raises(Stop):
        refresh(run)
    assert read_state(out).now["not labelled"] == {"skipped": 6}
    labelled = {pair.id: pair for pair in read_pairs(out / "rounds" / "01" / "labelled.jsonl", strict=True)}
    for row, choice in zip(rows, choices, strict=True):
        if choice == "skip":
            assert row["id"] not in labelled
        elif choice == "tie":
            assert labelled[row["id"]].preference == 0.5
        else:
            assert (labelled[row["id"]].chosen, labelled[row["id"]].preference) == (row[choice], 1.0)


@pytest.mark.parametrize("when_worse", ["go-on", "stop"])
def test_a_new_model_that_is_worse_is_not_promoted(whole, world, tmp_path, monkeypatch, when_worse):
    out = tmp_path / "run"
    copy_until(whole[0].out, out, "label")
    settings = json.loads((out / "refresh.json").read_text())
    settings["settings"]["when_worse"] = when_worse
    (out / "refresh.json").write_text(json.dumps(settings))
    state = read_state(out)
    write_state(out, replace(state, doing="gate"))
    (out / "rounds" / "01" / "labelled.jsonl").write_bytes((whole[0].out / "rounds" / "01" / "labelled.jsonl").read_bytes())
    monkeypatch.setattr(
        new_reward, "compare_margins", lambda a, b, *rest, **named: replace(compare_margins(a, b, *rest, **named), is_worse=True)
    )
    monkeypatch.setitem(refreshing.ACTIONS, "policy", lambda run, state: replace(state, doing="done"))
    done = refresh(a_refresh(world, out, when_worse=when_worse)).state
    assert done.reward is None
    if when_worse == "stop":
        assert (done.doing, done.now["promoted"]) == ("stopped", False)
    else:
        assert (done.doing, done.begin["step"], done.rounds[0]["promoted"]) == ("done", 2, False)
    page = refresh_result(a_refresh(world, out), done, title="Refresh").report()
    assert any(one.level == "warn" and "was not promoted; it is kept in rounds/01/reward" in one.why for one in page.findings)


def test_what_stops_a_stretch_is_counted_from_where_it_begins_and_nothing_does_after_the_last_round(whole, monkeypatch, tmp_path):
    asked = []

    def trained(run: PolicyRun) -> Trained:
        asked.append(run)
        return Trained(policy=tmp_path, rows=(), ground=None, steps=9, stopped="alarm" if run.stop_on_alarm else None)

    monkeypatch.setattr(refreshing, "train_policy", trained)
    run = whole[0]
    run = replace(run, settings=replace(run.settings, every=3, kl_budget=2.0, at_alarm=True, rounds=2))
    begin = {"stretch": 0, "step": 4, "whole": True, "kl": 1.5}
    state = State(doing="policy", stretch=5, begin=begin, rounds=({"round": 1},))
    after = refreshing.train_stretch(run, state)
    assert (asked[0].stop_at, asked[0].stop_kl, asked[0].stop_on_alarm) == (7, 3.5, True)
    assert asked[0].begin == Beginning(run=stretch_path(run.out, 0), step=4, whole=True)
    assert (after.doing, after.round, after.stop["why"], after.stop["step"]) == ("choose", 2, "alarm", 9)
    start = refreshing.train_stretch(run, State(doing="policy"))
    assert (asked[1].begin, asked[1].stop_at, asked[1].stop_kl, start.round) == (None, 3, 2.0, 1)
    below = {**begin, "kl": float("nan")}  # without held-out prompts
    refreshing.train_stretch(run, replace(state, begin=below))
    assert asked[2].stop_kl == 2.0
    last = refreshing.train_stretch(run, replace(state, rounds=({"round": 1}, {"round": 2})))
    assert (asked[3].stop_at, asked[3].stop_kl, asked[3].stop_on_alarm, last.doing) == (None, None, False, "done")


@pytest.mark.parametrize(("then", "step", "begins"), [("restart", 4, None), ("back", 4, 2), ("back", 1, None), ("go-on", 4, 4)])
def test_where_the_policy_begins_after_a_promotion(whole, then, step, begins):
    run = replace(whole[0], settings=replace(whole[0].settings, then=then))
    stop = {"why": "alarm", "step": step, "kl": 1.5}
    after = move(run, State(doing="move", stretch=1, round=1, stop=stop, now={"round": 1, "promoted": True}))
    assert (after.doing, after.stretch, after.now) == ("policy", 2, {})
    assert (None if after.begin is None else after.begin["step"]) == begins
    if then == "back" and begins:
        assert not after.begin["whole"]  # the weights of the look; moments and evidence begin anew
    worse = move(run, State(doing="move", stretch=1, round=1, stop=stop, now={"round": 1, "promoted": False}))
    assert worse.begin["step"] == step  # under the old reward model it would only do again what it did


def test_a_promotion_is_rolled_back_once_and_the_policy_goes_on_from_where_it_stopped_for_it(whole, world, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0].out, out)
    run = a_refresh(world, out)
    back = refresh(run, roll_back=1).state
    assert (back.doing, back.reward, back.stretch) == ("done", None, 2)
    assert back.rounds[0]["rolled back"] is True
    rows, before = read_metrics(stretch_path(out, 2)), read_metrics(stretch_path(out, 1))
    assert rows[:2] == before[:2]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert refresh(run, roll_back=1).state == back
    with pytest.raises(ValueError, match="refresh 2 has no reward model that could be taken back: none was promoted"):
        refresh(run, roll_back=2)


def test_asked_to_roll_back_in_the_middle_of_a_round_what_came_of_it_is_kept():
    done = {"round": 1, "promoted": True, "stretch": 0, "step": 2, "kl": 0.0, "reward before": None}
    state = State(doing="label", round=2, stretch=1, reward="rounds/01/promoted", now={"round": 2, "why": "alarm"}, rounds=(done,))
    back = asked_back(state, 1)
    assert (back.doing, [one["round"] for one in back.rounds]) == ("roll-back", [1, 2])
    assert asked_back(back, 1) == back


def test_promotion_in_a_service_may_be_done_again_and_rolled_back(whole, tmp_path, monkeypatch):
    served = {"name": "rm", "current": {"source": "first"}, "candidate": None, "previous": None}
    asked = []

    def change(url, action, *, model=None, artifact=None, as_it_is=False):
        asked.append(action)
        match action:
            case "load":
                assert (tmp_path / artifact / "reward.json").is_file()
                assert as_it_is
                served["candidate"] = {"source": artifact}
            case "promote":
                served.update(previous=served["current"], current=served["candidate"], candidate=None)
            case "rollback":
                served.update(current=served["previous"], previous=None)
        return [dict(served)]

    monkeypatch.setattr(new_reward, "change_models", change)
    run = replace(whole[0], service=ServedModel(url="http://127.0.0.1:1", models_dir=tmp_path))
    state = State(doing="promote", round=1, now={"round": 1})
    assert refreshing.promote(run, state) == refreshing.promote(run, state)
    assert (served["current"]["source"], asked.count("promote"), asked.count("load")) == ("run-01", 1, 1)
    done = {"round": 1, "promoted": True, "stretch": 0, "step": 2, "kl": 0.0, "reward before": None}
    for _ in range(2):
        refreshing.roll_back(run, State(doing="roll-back", now={"back to before": 1}, rounds=(done,)))
    assert (served["current"]["source"], asked.count("rollback")) == ("first", 1)


def test_other_settings_are_refused_by_name_and_what_can_not_be_trained_anew_by_what_is_needed(whole, world, tmp_path):
    run = whole[0]
    with pytest.raises(CheckpointError, match=r"settings, pairs: 24 before, 30 now\)"):
        refresh(replace(run, settings=replace(run.settings, pairs=30)))
    with pytest.raises(CheckpointError, match=r"policy settings, learning_rate: 0\.003 before, 0\.5 now; policy settings, samples"):
        refresh(replace(run, policy_settings=replace(run.policy_settings, samples=8, learning_rate=0.5)))
    with pytest.raises(ValueError, match="artifact is no run of assay train, with its data and flags"):
        refresh(replace(run, reward=world.reward / "artifact", out=tmp_path / "a"))
    with pytest.raises(ValueError, match="rule:answer is no run of assay train"):
        refresh(replace(run, reward=Path("rule:answer"), out=tmp_path / "b"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds mine\.txt and no refresh to go on with"):
        refresh(replace(run, out=tmp_path / "c"))
    with pytest.raises(ValueError, match="nothing says when to refresh"):
        replace(run, settings=RefreshSettings())
    with pytest.raises(ValueError, match="--at-alarm needs what the policy is held against its past by"):
        replace(run, gold=None, settings=RefreshSettings(at_alarm=True))
    with pytest.raises(ValueError, match="the policy ends before the first refresh"):
        replace(run, settings=RefreshSettings(every=4))


def test_the_new_model_is_trained_as_the_old_one_was_on_its_data_as_they_were_read(world, tmp_path):
    assert config_of_run(world.reward) == world.config
    run = tmp_path / "run"
    shutil.copytree(world.reward, run)
    saved = json.loads((run / "config.json").read_text())
    read_so = {"limit": 50, "columns": ["prompt=prompt"], "form": "assay"}
    (run / "config.json").write_text(json.dumps({**saved, "config": {**saved["config"], **read_so}}))
    assert gather_old(run, tmp_path / "data") == 50
    labels = tmp_path / "labelled.jsonl"
    config = new_config(run, tmp_path / "data", [labels], tmp_path / "new", device="cpu", dtype="float32")
    assert (config.form, config.columns, config.limit) == (None, (), None)
    assert config.data == (str(tmp_path / "data" / "old.jsonl"), str(labels))
    same = ("kind", "base", "params", "depth", "epochs", "calibration", "test", "seed", "objective", "regularization", "members")
    assert all(getattr(config, name) == getattr(world.config, name) for name in same)
    assert config.machine.resume


def test_the_command_says_what_people_have_to_do_and_how_it_ended(world, tmp_path, monkeypatch, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"bring tea then rope then {thing}"}) for thing in ("soap", "milk", "salt")))
    out = tmp_path / "out"
    asked = [*words(world, out, prompts)[:5], "--out", str(out), "--labeller", "people", "--every", "2"]
    monkeypatch.setattr(refresh_command, "refresh", lambda run, roll_back: Refreshed(state=State(doing="label"), waiting="24 wait"))
    assert main(asked) == 9
    assert "waiting 24 wait" in " ".join(capsys.readouterr().err.split())
    worse = State(
        doing="stopped", now={"round": 1, "why": "alarm", "step": 2, "kl": 1.0, "promoted": False, "gate": "B.", "change": -0.1}
    )
    monkeypatch.setattr(refresh_command, "refresh", lambda run, roll_back: Refreshed(state=worse))
    assert main(asked) == 5
    assert "stopped, since the last new model was worse" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--models-dir", "x"])
    assert ended.value.code == 2
    assert "--service and --models-dir go together" in capsys.readouterr().err
    assert main([*asked, "--judge-model", "m"]) == 2  # people are asked nothing over an endpoint
    assert main([*asked[:-4], "--labeller", "rule:nothing:there", "--every", "2"]) == 2


COMMAND = """
import sys
from assay.cli import main
sys.exit(main(sys.argv[1:]))
"""


def words(world, out: Path, prompts: Path) -> list[str]:
    flags = "--labeller rule:assay.recipes.worlds.errands:gold_rule --every 2 --rounds 1 --pairs 24 --then back --steps 4"
    flags += " --prompts-per-step 4 --max-tokens 16 --learning-rate 0.003 --evaluate-every 1 --save-every 1 --held-out 4"
    flags += f" --device cpu --dtype float32 --out {out}"
    return ["rl", "refresh", str(world.base), str(world.reward), str(prompts), *flags.split()]


def test_the_command_is_killed_for_good_and_goes_on(world, tmp_path, capsys):
    """SIGKILL as soon as a state is on the disk; then the same words once more. Against a run that was let alone."""
    from assay.recipes.worlds.errands import as_prompts, errands

    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": one.messages[0].content, "ground_truth": dict(one.ground_truth)} for one in as_prompts(errands(40, seed=5))]
    prompts.write_text("\n".join(json.dumps(row) for row in rows))
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words(world, killed, prompts)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 600
    while not (killed / "state.json").is_file() or read_state(killed).doing != "train":
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    labels = (killed / "rounds" / "01" / "labels.jsonl").read_bytes()
    assert main(words(world, killed, prompts)) == 0
    assert main(words(world, alone, prompts)) == 0
    assert (killed / "rounds" / "01" / "labels.jsonl").read_bytes() == labels
    assert ended(killed) == ended(alone)
    assert read_state(killed).begin == {"stretch": 0, "step": 1, "whole": False, "kl": read_state(alone).begin["kl"]}
    assert "1 refresh, 1 new reward model" in capsys.readouterr().out
