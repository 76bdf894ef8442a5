"""The std of one model's rewards: from the artifact through every door, by its closed form, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from assay.cli import main
from assay.commands.train import train_all
from assay.data.run_data import run_data
from assay.errors import ArtifactError
from assay.evaluation.evaluate import evaluate
from assay.evaluation.margin_std import AREA, STD_AUROC
from assay.evaluation.rescale import keep_scaled_posterior
from assay.models.saved.artifact import save_artifact, verify_digest
from assay.models.saved.ensemble_files import copy_member
from assay.models.saved.posterior_files import FILE, load_posterior
from assay.records import Completion, PreferencePair
from assay.run_files import POSTERIOR, read_description, uncalibrated_fingerprint
from assay.scorers.base import TellsMarginStd, capability
from assay.scorers.checks import check_scorer
from assay.scorers.ensemble import members_of
from assay.scorers.http.remote import RemoteScorer
from assay.scorers.load import load
from assay.scorers.local import load_raw
from assay.scorers.wrappers.calibrated import Calibrated
from assay.stats.head_posterior import curvature
from assay.training.settings import Members
from serving import service_of, serving
from tiny import tiny_model, tiny_renderer, toy_pairs
from toy_runs import config_of

FLAGS = ["--dtype", "float32", "--device", "cpu"]
ANSWERS = [Completion(messages=f"Tell me about egg {i}", response=text) for i in range(2) for text in ("It is water.", "Lazy dog")]


@pytest.fixture(scope="module")
def fitted(trained_run, tmp_path_factory):
    """A copy of the finished run, with a posterior by its command."""
    run = tmp_path_factory.mktemp("posterior") / "run"
    shutil.copytree(trained_run.path, run)
    assert main(["model", "posterior", str(run), "--reference", "Lazy dog", *FLAGS]) == 0
    return run


def test_values_stay_and_std_is_that_of_the_difference_to_the_reference_answer(fitted, trained_run):
    scorer, plain = load(fitted, dtype="float32", device="cpu"), load(trained_run.path, dtype="float32", device="cpu")
    assert isinstance(scorer, Calibrated), "calibration and posterior go together"
    check_scorer(scorer, [*ANSWERS, Completion(messages="egg", response=""), Completion(text="an egg")])
    rewards = scorer.score(ANSWERS)
    np.testing.assert_allclose(rewards.value, plain.score(ANSWERS).value, atol=1e-5)
    states_ND = load_raw(fitted / "artifact", dtype="float32").states(ANSWERS).astype(float)
    posterior = load_posterior(fitted / "artifact").posterior
    inverse_DD = np.linalg.inv(posterior.factor_DD @ posterior.factor_DD.T)
    d_2D = states_ND[0::2] - states_ND[1::2]
    expected_2 = np.sqrt(np.einsum("nd,de,ne->n", d_2D, inverse_DD, d_2D))
    assert (expected_2 > 1e-3).all()
    np.testing.assert_allclose(rewards.std[0::2], expected_2, rtol=1e-2)
    np.testing.assert_allclose(rewards.std[1::2], 0, atol=1e-3)
    alone = np.concatenate([scorer.score([one]).std for one in ANSWERS])
    np.testing.assert_allclose(alone, rewards.std, atol=1e-3), "it depends on its completion alone"
    assert members_of(scorer) is None
    rendered = scorer.score([Completion(text="egg"), ANSWERS[0]])
    assert np.isnan(rendered.std[0])
    assert np.isfinite(rendered.value[0]), "the prompt of a text is not told: it has a reward and no std"
    assert scorer.score([Completion(text="egg")]).std is None


def test_it_is_the_posterior_of_the_training_pairs(fitted, trained_run):
    pairs = list(run_data(trained_run.path).pairs("train"))
    raw = load_raw(trained_run.path / "artifact", dtype="float32", device="cpu")
    rewards, states_ND = raw.score_with_states([one for pair in pairs for one in pair.completions()])
    hessian_DD = curvature(states_ND[0::2] - states_ND[1::2], rewards.value[0::2] - rewards.value[1::2], np.ones(len(pairs)))
    saved = load_posterior(fitted / "artifact")
    precision_DD = saved.posterior.factor_DD @ saved.posterior.factor_DD.T
    np.testing.assert_allclose(precision_DD, hessian_DD + saved.posterior.prior * np.eye(32), rtol=1e-3, atol=1e-3)
    assert saved.entry["num_pairs"] == len(pairs)
    assert saved.entry["prior_by"] == "the highest marginal likelihood of the pairs"
    weight_D = raw.model.head.weight.detach().numpy()[0].astype(float)
    assert saved.posterior.num_determined == pytest.approx(saved.posterior.prior * float(weight_D @ weight_D), rel=1e-2)


def test_the_margin_s_std_is_measured_by_evaluate(fitted):
    scorer, pairs = load(fitted, dtype="float32", device="cpu"), toy_pairs(60, first=900)
    rewards, std_P = capability(scorer, TellsMarginStd).margins_with_std(pairs)
    assert (len(rewards), std_P.shape) == (120, (60,))
    same = PreferencePair(prompt="egg", chosen="It is water.", rejected="It is water. ")
    turned = capability(scorer, TellsMarginStd).margins_with_std(
        [replace(one, chosen=one.rejected, rejected=one.chosen) for one in pairs]
    )
    np.testing.assert_allclose(turned[1], std_P, rtol=1e-3)
    assert capability(scorer, TellsMarginStd).margins_with_std([same])[1][0] < std_P.mean()
    flipped = [replace(pair, preference=0.0) if i % 3 == 0 else pair for i, pair in enumerate(pairs)]
    report = evaluate(scorer, flipped, title="x", slices=False).report()
    assert 0 <= report.metric(STD_AUROC).value <= 1
    assert report.metric(AREA).value < 0.6
    assert "the std of the margin detects wrong pairs" in {finding.name for finding in report.findings}


def test_the_fingerprint_has_it_and_the_weights_do_not(fitted, trained_run):
    before, after = (read_description(run / "artifact") for run in (trained_run.path, fitted))
    assert before["weights_digest"] == after["weights_digest"]
    assert before["fingerprint"] != after["fingerprint"]
    assert uncalibrated_fingerprint(fitted / "artifact") == uncalibrated_fingerprint(trained_run.path / "artifact")
    assert load(fitted, dtype="float32").fingerprint != load(trained_run.path, dtype="float32").fingerprint
    assert main(["audit", "verify", str(fitted), "--device", "cpu"]) == 0


def test_it_goes_through_files_and_the_service(fitted, tmp_path):
    scorer = load(fitted, dtype="float32", device="cpu")
    expected = scorer.score(ANSWERS)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": answer.messages[0].content, "response": answer.response} for answer in ANSWERS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(fitted), "--input", str(source), "--output", str(output), *FLAGS]) == 0
    np.testing.assert_allclose([json.loads(row)["std"] for row in output.read_text().splitlines()], expected.std, atol=1e-3)
    with serving(service_of(scorer)) as client:
        np.testing.assert_allclose(RemoteScorer(str(client.base_url)).score(ANSWERS).std, expected.std, atol=1e-3)


def test_what_is_damaged_or_cannot_be_fitted_is_refused(fitted, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(fitted, run)
    data = (run / "artifact" / FILE).read_bytes()
    (run / "artifact" / FILE).write_bytes(data[:-8] + bytes(8))
    with pytest.raises(ArtifactError, match="fit it again with assay model posterior"):
        load(run, dtype="float32")
    (run / "artifact" / FILE).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        load(run, dtype="float32")
    assert main(["model", "posterior", str(run), "--prior", "2.5", *FLAGS]) == 0
    assert load_posterior(run / "artifact").posterior.prior == 2.5
    heads = tmp_path / "heads"
    save_artifact(tiny_model(num_members=3), tiny_renderer(), heads, {"ensemble": {"members": 3}})
    capsys.readouterr()
    for model, flags, why in (
        (run, ["--prior", "0"], "must be above 0"),
        (run, ["--reference", " "], "the reference answer is empty"),
        (run, ["--limit", "5"], "give a posterior at least 20"),
        (heads, ["--data", str(run)], "whose members give a std already"),
    ):
        if "--data" in flags:
            flags = ["--data", str(tmp_path / "pairs.jsonl")]
            (tmp_path / "pairs.jsonl").write_text('{"prompt": "egg", "chosen": "a", "rejected": "b"}\n')
        assert main(["model", "posterior", str(model), *flags, *FLAGS]) == 2
        assert why in " ".join(capsys.readouterr().err.split())


def test_a_rescaled_model_has_its_std_in_the_new_units_and_a_member_has_none(fitted, tmp_path):
    saved, path = load_posterior(fitted / "artifact"), tmp_path / "twice"
    shutil.copytree(fitted / "artifact", path)
    keep_scaled_posterior(path, saved, 2.0)
    twice = load_posterior(path).posterior
    assert twice.prior == pytest.approx(saved.posterior.prior / 4)
    d_ND = np.random.default_rng(0).normal(size=(5, 32))
    np.testing.assert_allclose(twice.std(d_ND), 2 * saved.posterior.std(d_ND), rtol=1e-5)
    (tmp_path / "joined").mkdir()
    copy_member(path, tmp_path / "joined", 0)
    member = tmp_path / "joined" / "members" / "0"
    assert POSTERIOR not in read_description(member)
    assert not (member / POSTERIOR).exists()
    verify_digest(member)


@pytest.mark.slow
def test_train_fits_it_at_the_end_from_the_states_of_the_run(tmp_path, capsys):

    for params in ("head", "head:mean"):
        config = config_of(tmp_path, toy_pairs(120), params=params, members=Members(laplace=True))
        config = replace(config, out=tmp_path / params.replace(":", "-"))
        train_all(config)
        entry = read_description(config.out / "artifact")[POSTERIOR]
        assert entry["num_pairs"] == len(list(run_data(config.out).pairs("train")))
        rewards = load(config.out, dtype="float32").score(ANSWERS)
        assert (rewards.std > 0).all()
        assert "posterior of the head" in (config.out / "artifact" / "README.md").read_text()
    with pytest.raises(ValueError, match="--laplace is of one model's head"):
        Members(laplace=True, ensemble=2)
    with pytest.raises(ValueError, match="--laplace is of the loss of pairs"):
        replace(config, kind="rankings")
