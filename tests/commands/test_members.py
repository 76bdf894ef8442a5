"""`--ensemble K` in its three forms, joined, averaged, taken apart again: what is saved is what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import assay
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.errors import ArtifactError
from assay.evaluation.disagreement import MEAN, MEMBER
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.models.saved.combine import average
from assay.models.saved.plain import plain_scores
from assay.records import Completion
from assay.run_files import WORDS_FILE, read_description, saved_scales
from assay.scorers.checks import check_scorer
from assay.scorers.ensemble import PLAIN, Combination, members_of, robust_mean
from assay.scorers.http.remote import RemoteScorer
from assay.scorers.load import load
from assay.scorers.local import load_raw
from assay.wire import report_from_json
from serving import service_of, serving
from tiny import save_tiny_base, tiny_model, tiny_renderer, toy_pairs

pytestmark = pytest.mark.slow

FORMS = {"head": "heads", "head:mean": "blocks", "blocks:1": "blocks", "full": "models", "lora:4:2": "blocks", "lora:4": "models"}
RATES = {"head": "1e-2", "head:mean": "1e-2", "blocks:1": "1e-3", "full": "5e-4", "lora:4:2": "5e-3", "lora:4": "5e-3"}
ANSWERS = [
    Completion(messages=f"Tell me about egg {i}", response=f"It is {word} over the dog.")
    for i in range(4)
    for word in ("water", "lazy")
] + [Completion(messages="egg", response="")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensembles")
    write_pairs(folder / "toy.jsonl", toy_pairs(120))
    return folder, save_tiny_base(folder / "base"), folder / "toy.jsonl"


def trained(made, params: str, *more: str, out: str | None = None) -> Path:
    folder, base, data = made
    run = folder / (out or params.replace(":", "-"))
    if not run.exists():
        common = ["--base", str(base), "--dtype", "float32", "--device", "cpu", "--calibration", "0.25", "--test", "0.25"]
        settings = ["--params", params, "--learning-rate", RATES[params], "--ensemble", "3", *more]
        assert main(["train", "--data", str(data), "--out", str(run), *common, *settings]) == 0
    return run


@pytest.mark.parametrize("params", FORMS)
def test_each_form_trains_reports_and_keeps_the_laws(made, params):
    run = trained(made, params)
    entry = read_description(run / "artifact")["ensemble"]
    assert (entry["form"], entry["members"], entry["penalty"]) == (FORMS[params], 3, 1.0)
    scorer = load(run, dtype="float32")
    check_scorer(scorer, ANSWERS)
    rewards = scorer.score(ANSWERS)
    members_KN = members_of(scorer).score_members(ANSWERS)
    assert members_KN.shape == (3, len(ANSWERS))
    std = members_KN[:, :-1].std(axis=0, ddof=1)
    assert (std > 1e-4).all(), "the members differ"
    np.testing.assert_allclose(rewards.std[:-1], std, rtol=1e-4)
    np.testing.assert_allclose(rewards.value[:-1], members_KN[:, :-1].mean(axis=0) - std, atol=1e-4)
    scales = saved_scales(read_description(run / "artifact"))
    assert {scale.unit for scale in scales} == {1.0}, "the heads have one unit already"
    assert sum(scale.centre for scale in scales) == pytest.approx(0, abs=1e-6), "the mean of the members is as it was"
    assert max(abs(scale.centre) for scale in scales) > 0
    assert np.isnan(rewards.value[-1])
    for name in ("training", "test"):
        report = report_from_json((run / "eval" / f"{name}.json").read_text())
        assert report.metric(MEAN).value >= report.metric(MEMBER).value - 0.1
        assert {table.title for table in report.tables} >= {"accuracy of each member", "risk and coverage"}
    assert report_from_json((run / "eval" / "training.json").read_text()).metric("reload check: largest difference").value < 1e-4
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("params", FORMS)
def test_the_members_stand_on_one_scale(made, params):
    run = trained(made, params)
    pairs = toy_pairs(120)
    members_KN = members_of(load(run, dtype="float32")).score_members([c for pair in pairs for c in pair.completions()])
    margins_KP = members_KN[:, 0::2] - members_KN[:, 1::2]
    sizes = np.sqrt(np.square(margins_KP).mean(axis=1))
    assert sizes.max() / sizes.min() < 1.15, "equal on the calibration pairs, hence nearly so on all"


def test_heads_are_a_plain_model_of_their_mean(made):
    run = trained(made, "head")
    mean = load_raw(run / "artifact", dtype="float32", combination=PLAIN).score(ANSWERS[:-1])
    np.testing.assert_allclose(mean.value, plain_scores(run / "artifact", ANSWERS[:-1]), atol=1e-4)
    model = load_artifact(run / "artifact").model
    assert model.head.weight.shape == (3, 32)
    beside = [file.name for file in (run / "artifact").glob("*.safetensors")]
    assert beside == ["model.safetensors"], "engines load every safetensors file that lies beside the weights"


@pytest.mark.parametrize("params", FORMS)
def test_an_exported_member_scores_as_it_did_in_the_ensemble(made, params, tmp_path):
    run = trained(made, params)
    members_KN = members_of(load(run, dtype="float32")).score_members(ANSWERS[:-1])
    for number in (0, 2):
        assert main(["model", "export", str(run), "--member", str(number), "--out", str(tmp_path / str(number))]) == 0
        alone = load(tmp_path / str(number), dtype="float32").score(ANSWERS[:-1])
        centre = saved_scales(read_description(run / "artifact"))[number].centre
        np.testing.assert_allclose(alone.value, members_KN[number] + centre, atol=1e-5)
        np.testing.assert_allclose(plain_scores(tmp_path / str(number), ANSWERS[:-1]), alone.value, atol=1e-4)
    assert (tmp_path / "2" / WORDS_FILE).read_bytes() == (run / "artifact" / WORDS_FILE).read_bytes(), (
        "the words of its training pairs"
    )
    assert main(["model", "export", str(run), "--member", "3", "--out", str(tmp_path / "3")]) == 2
    assert main(["model", "export", str(tmp_path / "0"), "--out", str(tmp_path / "4")]) == 2


def test_an_average_of_members_has_the_mean_of_their_weights(made, tmp_path):
    run = trained(made, "blocks:1")
    assert main(["model", "average", str(run), "--out", str(tmp_path / "mean")]) == 0
    mean = load_artifact(tmp_path / "mean").model
    first = load_file(run / "artifact" / "members" / "0" / "model.safetensors")
    others = [load_file(run / "artifact" / "members" / f"{number}.safetensors") for number in (1, 2)]
    name = f"layers.{mean.backbone.num_layers - 1}.mlp.down_proj.weight"
    expected = (first[f"model.{name}"] + others[0][name] + others[1][name]) / 3
    torch.testing.assert_close(dict(mean.backbone.model.named_parameters())[name].data, expected)
    head = (first["score.weight"] + others[0]["score.weight"] + others[1]["score.weight"]) / 3
    torch.testing.assert_close(mean.head.weight.data, head)
    pairs = toy_pairs(40)
    report = assay.evaluate(load(tmp_path / "mean", dtype="float32"), pairs, title="mean", slices=False).report()
    assert report.metric("accuracy").value > 0.9
    assert main(["evaluate", str(tmp_path / "mean"), "--data", str(made[2])]) == 2, "it knows what it was trained on"
    assert (tmp_path / "mean" / WORDS_FILE).read_bytes() == (run / "artifact" / WORDS_FILE).read_bytes()
    copies = [Path(shutil.copytree(run / "artifact", tmp_path / f"copy-{number}")) for number in range(2)]
    np.savez_compressed(
        copies[1] / WORDS_FILE, hashes=np.zeros(0, np.uint64), weights=np.zeros(0, np.float32), num_pairs=np.array(9)
    )
    average(copies, tmp_path / "unlike", units=[1.0, 1.0])
    assert not (tmp_path / "unlike" / WORDS_FILE).exists(), "words of other pairs are no baseline of both"


def test_what_cannot_be_averaged_or_joined_is_refused_by_name(made, tmp_path, capsys):
    blocks, heads = trained(made, "blocks:1"), trained(made, "head")
    for number, run in enumerate((blocks, heads)):
        assert main(["model", "export", str(run), "--out", str(tmp_path / str(number))]) == 0
    other = save_tiny_base(tmp_path / "qwen", "qwen")
    _, base, data = made
    settings = ["--data", str(data), "--dtype", "float32", "--device", "cpu", "--calibration", "0.25"]
    for name, path, params in (("other", other, "head"), ("both", base, "head:mean")):
        assert main(["train", "--base", str(path), "--out", str(tmp_path / name), "--params", params, *settings]) == 0
    write_pairs(tmp_path / "new.jsonl", toy_pairs(30, first=1000))
    reference = ["--reference", str(tmp_path / "new.jsonl"), "--dtype", "float32"]
    cases = {
        "at least two models, got 1": ["average", str(tmp_path / "0")],
        "models of --params head:mean cannot be averaged": ["average", str(tmp_path / "0"), str(tmp_path / "both")],
        "of different architectures": ["average", str(tmp_path / "0"), str(tmp_path / "other"), *reference],
        "at least two members, got 1": ["ensemble", str(tmp_path / "0")],
        "the same weights": ["ensemble", str(tmp_path / "0"), str(tmp_path / "0")],
        "is an ensemble itself": ["ensemble", str(tmp_path / "0"), str(blocks)],
    }
    for message, arguments in cases.items():
        capsys.readouterr()
        assert main(["model", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "out").exists()


def test_models_of_unlike_bases_are_joined_and_calibrated_together(made, tmp_path):
    assert main(["model", "export", str(trained(made, "blocks:1")), "--out", str(tmp_path / "0")]) == 0
    other = save_tiny_base(tmp_path / "qwen", "qwen")
    settings = ["--params", "full", "--learning-rate", "5e-4", "--dtype", "float32", "--device", "cpu", "--calibration", "0.25"]
    assert main(["train", "--data", str(made[2]), "--base", str(other), "--out", str(tmp_path / "1"), *settings]) == 0
    names = [str(tmp_path / "0"), str(tmp_path / "1")]
    write_pairs(tmp_path / "new.jsonl", toy_pairs(60, first=1000))
    reference = ["--reference", str(tmp_path / "new.jsonl"), "--dtype", "float32"]
    assert main(["model", "ensemble", *names, "--out", str(tmp_path / "both"), "--combine", "min", *reference]) == 0
    calibrate = ["model", "calibrate", str(tmp_path / "both"), "--data", str(tmp_path / "new.jsonl")]
    assert main([*calibrate, "--dtype", "float32"]) == 0
    scorer = load(tmp_path / "both", dtype="float32")
    check_scorer(scorer, ANSWERS)
    members_KN = members_of(scorer).score_members(ANSWERS[:-1])
    np.testing.assert_allclose(scorer.score(ANSWERS[:-1]).value, members_KN.min(axis=0), atol=1e-5)
    seen = [completion for pair in toy_pairs(60, first=1000) for completion in pair.completions()]
    for name, member_N in zip(names, members_KN, strict=True):
        alone, there_N = load(name, dtype="float32").score(ANSWERS[:-1]).value, load(name, dtype="float32").score(seen).value
        unit = np.sqrt(np.mean(np.square(there_N[0::2] - there_N[1::2])))
        np.testing.assert_allclose(member_N, (alone - there_N.mean()) / unit, atol=1e-4)
    other_way = load(tmp_path / "both", dtype="float32", combination=Combination(penalty=0.0))
    np.testing.assert_allclose(other_way.score(ANSWERS[:-1]).value, members_KN.mean(axis=0), atol=1e-5)


def scaled_copies(folder: Path) -> dict[str, Path]:
    """Two tiny models, and the second with eight times its rewards."""
    made = {}
    for name, seed, factor in (("a", 0, 1.0), ("b", 1, 1.0), ("b8", 1, 8.0)):
        model = tiny_model(seed=seed)
        with torch.no_grad():
            model.head.weight.mul_(factor)
        made[name] = folder / name
        save_artifact(model, tiny_renderer(), made[name], {"title": name, "base_model": "tiny"}, train_prompts=None)
    return made


def test_the_scale_of_a_member_changes_neither_value_nor_std(tmp_path):
    models = scaled_copies(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(40))
    reference = ["--reference", str(tmp_path / "pairs.jsonl"), "--dtype", "float32"]
    rewards = []
    for out, parts in (("ab", ("a", "b")), ("ab8", ("a", "b8"))):
        names = [str(models[part]) for part in parts]
        assert main(["model", "ensemble", *names, "--out", str(tmp_path / out), *reference]) == 0
        rewards.append(load(tmp_path / out, dtype="float32").score(ANSWERS[:-1]))
        averaged = tmp_path / f"{out}-mean"
        assert main(["model", "average", *names, "--out", str(averaged), *reference]) == 0
    np.testing.assert_allclose(rewards[0].value, rewards[1].value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rewards[0].std, rewards[1].std, rtol=1e-4, atol=1e-5)
    heads = [load_artifact(tmp_path / name).model.head.weight for name in ("ab-mean", "ab8-mean")]
    torch.testing.assert_close(heads[0], heads[1])
    scorer = load(tmp_path / "ab8", dtype="float32")
    check_scorer(scorer, ANSWERS)
    members_KN = members_of(scorer).score_members([c for pair in toy_pairs(40) for c in pair.completions()])
    np.testing.assert_allclose(members_KN.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(np.square(members_KN[:, 0::2] - members_KN[:, 1::2]).mean(axis=1), 1, rtol=1e-4)


def test_robust_members_are_saved_loaded_scored_and_served_with_their_beta(tmp_path):
    models = scaled_copies(tmp_path)
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(40))
    run = tmp_path / "robust"
    join = [
        "model",
        "ensemble",
        str(models["a"]),
        str(models["b8"]),
        "--out",
        str(run),
        "--reference",
        str(tmp_path / "pairs.jsonl"),
    ]
    assert main([*join, "--robust-beta", "0.2"]) == 2, "beta says nothing to the mean"
    assert main([*join, "--combine", "robust", "--robust-beta", "0.2", "--dtype", "float32"]) == 0
    entry = read_description(run)["ensemble"]
    assert (entry["combine"], entry["beta"]) == ("robust", 0.2)
    scorer = load(run, dtype="float32")
    check_scorer(scorer, ANSWERS)
    members_KN = members_of(scorer).score_members(ANSWERS[:-1])
    expected_N = robust_mean(members_KN, 0.2)
    np.testing.assert_allclose(scorer.score(ANSWERS[:-1]).value, expected_N, atol=1e-5)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": answer.messages[0].content, "response": answer.response} for answer in ANSWERS[:-1]]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(run), "--input", str(source), "--output", str(output), "--dtype", "float32"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    np.testing.assert_allclose([row["value"] for row in rows], expected_N, atol=1e-4)
    with serving(service_of(scorer)) as client:
        got = RemoteScorer(str(client.base_url)).score(ANSWERS[:-1])
    np.testing.assert_allclose(got.value, expected_N, atol=1e-4)
    np.testing.assert_allclose(got.std, members_KN.std(axis=0, ddof=1), atol=1e-4)


@pytest.mark.parametrize("command", [["ensemble"], ["ensemble", "--combine", "min"], ["average"]])
def test_models_of_unknown_scale_are_not_put_together(tmp_path, capsys, command):
    models = scaled_copies(tmp_path)
    names = [str(models["a"]), str(models["b8"])]
    capsys.readouterr()
    assert main(["model", command[0], *names, "--out", str(tmp_path / "out"), *command[1:]]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "is not known, as no calibration with a mean reward was saved: give --reference PAIRS" in told
    assert not (tmp_path / "out").exists()


def test_calibrated_models_are_joined_in_logits_around_their_mean_reward(tmp_path):
    models = scaled_copies(tmp_path)
    pairs = toy_pairs(60)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    for name in models:
        assert main(["model", "calibrate", str(models[name]), "--data", str(tmp_path / "pairs.jsonl"), "--dtype", "float32"]) == 0
    values = []
    for parts in (("a", "b"), ("a", "b8")):
        out = tmp_path / "-".join(parts)
        assert main(["model", "ensemble", *(str(models[part]) for part in parts), "--out", str(out)]) == 0
        values.append(load(out, dtype="float32").score(ANSWERS[:-1]).value)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-3, atol=1e-4)
    (unit, centre), *_ = saved_scales(read_description(tmp_path / "a-b"))
    calibration = read_description(models["a"])["calibration"]
    assert (unit, centre) == (calibration["temperature"], calibration["mean_reward"])
    rewards = load(models["a"], dtype="float32").score([c for pair in pairs for c in pair.completions()]).value
    assert centre == pytest.approx(float(rewards.mean()), abs=1e-4)


def damage_weights(artifact: Path) -> None:
    file = artifact / "members" / "1.safetensors"
    tensors = load_file(file)
    tensors["score.weight"] += 1e-3
    save_file(tensors, file)


def damage_penalty(artifact: Path) -> None:
    content = json.loads((artifact / "reward.json").read_text())
    content["ensemble"]["penalty"] = 0.0
    (artifact / "reward.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "weights were changed"),
        (damage_penalty, "was edited"),
        (lambda artifact: (artifact / "members" / "2.safetensors").unlink(), "weights were changed"),
        (lambda artifact: shutil.rmtree(artifact / "members" / "0"), "weights were changed"),
    ],
)
def test_a_damaged_ensemble_is_not_loaded(made, tmp_path, damage, message):
    shutil.copytree(trained(made, "blocks:1") / "artifact", tmp_path / "artifact")
    damage(tmp_path / "artifact")
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "artifact")


@pytest.mark.parametrize("params", FORMS)
def test_an_ensemble_is_not_gone_on_from(made, tmp_path, capsys, params):
    _, _, data = made
    arguments = ["train", "--data", str(data), "--init-from", str(trained(made, params)), "--out", str(tmp_path / "next")]
    capsys.readouterr()
    assert main(arguments) == 2
    assert "take a member out with assay model export" in " ".join(capsys.readouterr().err.split())
    if params != "head":
        assert main(["audit", "verify", str(trained(made, params))]) == 3


def test_an_interrupted_ensemble_goes_on_and_ends_the_same(made):
    whole = trained(made, "blocks:1")
    again = trained(made, "blocks:1", out="again")
    shutil.rmtree(again / "artifact")
    shutil.rmtree(again / "members" / "2")  # as if it had been stopped in the third member
    _, base, data = made
    common = ["--base", str(base), "--dtype", "float32", "--device", "cpu", "--calibration", "0.25", "--test", "0.25"]
    settings = ["--params", "blocks:1", "--learning-rate", RATES["blocks:1"], "--ensemble", "3"]
    arguments = ["train", "--data", str(data), "--out", str(again), *common, *settings]
    assert main(arguments) == 2, "an unfinished run is not overwritten"
    assert main([*arguments, "--resume"]) == 0
    ours, theirs = (read_description(run / "artifact")["weights_digest"] for run in (whole, again))
    assert ours == theirs
