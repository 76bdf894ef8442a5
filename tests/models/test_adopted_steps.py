"""Process models of others as artifacts: equal steps, in plain transformers too, and a certificate that replays every one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

import assay
from assay.audit.parity.certificate import make_certificate
from assay.cli import main
from assay.models.published.published_steps import FORMATS
from assay.models.saved.golden import read_golden
from assay.run_files import read_description
from assay.scorers.local import load_local
from assay.stats.metrics import sigmoid
from process_models import ORACLES, QUESTION, SAVED, save_qwen_math_prm, steps_of
from serving import service_of, serving

KEPT = ("math-shepherd", "rlhflow", "rlhflow-blank-line", "skywork-o1", "trl", "pure")
REFUSED = {
    "qwen-math-prm": "has a hidden layer, which no token-classification class of transformers has",
    "reasoneval": "gives three classes, and #reasoneval is no difference of two logits",
    "reasoneval-redundancy": "gives three classes",
}


def adopted(form: str, tmp_path, saved=None) -> tuple:
    path = (saved or SAVED[form])(tmp_path / "theirs")
    assert main(["model", "adopt", f"{path}#{form}", "--out", str(tmp_path / "ours")]) == 0
    return path, tmp_path / "ours"


@pytest.mark.parametrize("form", KEPT)
def test_the_artifact_gives_the_publishers_steps(form, tmp_path, capsys):
    path, ours = adopted(form, tmp_path)
    steps = steps_of(form)
    (found,) = assay.load(ours, dtype="float32", device="cpu").score([assay.Completion(messages=QUESTION, steps=steps)]).steps
    shares = sigmoid(found.astype(np.float64))
    values = 2 * shares - 1 if FORMATS[form].value == "difference" else shares
    np.testing.assert_allclose(values, ORACLES[form](path, QUESTION, [step.rstrip("\n") for step in steps]), atol=1e-5)
    assert form in json.dumps(read_description(ours)["adopted"])
    assert f"#{form}" in (ours / "README.md").read_text()


def test_a_linear_head_of_qwens_form_becomes_an_artifact(tmp_path):
    path, ours = adopted("qwen-math-prm", tmp_path, lambda path: save_qwen_math_prm(path, linear=True))
    steps = steps_of("qwen-math-prm")
    (found,) = assay.load(ours, dtype="float32", device="cpu").score([assay.Completion(messages=QUESTION, steps=steps)]).steps
    expected = ORACLES["qwen-math-prm"](path, QUESTION, [step.rstrip("\n") for step in steps])
    np.testing.assert_allclose(sigmoid(found.astype(np.float64)), expected, atol=1e-5)


@pytest.mark.parametrize("form", REFUSED)
def test_what_no_plain_class_holds_is_refused_with_its_reason(form, tmp_path, capsys):
    path = SAVED[form](tmp_path / "theirs")
    assert main(["model", "adopt", f"{path}#{form}", "--out", str(tmp_path / "ours")]) == 2
    assert REFUSED[form] in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "ours").exists()


def test_a_form_that_writes_has_no_head(tmp_path, capsys):
    path = SAVED["rlhflow"](tmp_path / "theirs")
    assert main(["model", "adopt", f"{path}#genprm", "--out", str(tmp_path / "ours")]) == 2
    assert "writes its verdicts (#genprm)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("form", ["math-shepherd", "rlhflow", "trl"])
def test_golden_vectors_hold_tokens_and_steps_that_plain_transformers_gives(form, tmp_path):
    _, ours = adopted(form, tmp_path)
    golden, kept = read_golden(ours), load_local(ours, dtype="float32", device="cpu").renderer
    model = AutoModelForTokenClassification.from_pretrained(ours).eval()
    num_checked = 0
    for completion, ids, steps_S in zip(golden.completions, golden.token_ids, golden.steps, strict=True):
        if not ids or not np.isfinite(steps_S).all():
            continue
        (item,) = kept.render([completion])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, torch.tensor(item.reward_positions.tolist())]
        np.testing.assert_allclose(steps_S, (logits[:, 1] - logits[:, 0]).numpy(), atol=1e-5)
        num_checked += len(steps_S)
    assert num_checked > 10


@pytest.mark.slow
@pytest.mark.parametrize("form", ["math-shepherd", "rlhflow", "skywork-o1", "trl"])
def test_the_certificate_replays_every_step_by_a_reading_of_its_own(form, tmp_path, capsys):
    _, ours = adopted(form, tmp_path)
    certificate = make_certificate(ours)
    found = {finding.name: finding for finding in certificate.findings}
    assert {name for name, finding in found.items() if finding.level == "fail"} == set()
    assert found["a prefix a forward"].value <= found["a prefix a forward"].threshold
    assert found["text to tokens"].level == found["ends of steps"].level == "ok"
    description = json.loads((ours / "reward.json").read_text())
    assert main(["audit", "verify", str(ours)]) == 0
    (ours / "reward.json").write_text(json.dumps({**description, "layout": {**description["layout"], "lead": "?"}}))
    assert main(["audit", "verify", str(ours)]) != 0
    capsys.readouterr()


@pytest.mark.slow
def test_an_engine_is_compared_at_every_step(tmp_path, capsys):
    _, ours = adopted("math-shepherd", tmp_path)
    with serving(service_of(load_local(ours, dtype="float32", device="cpu"), names=("prm",))) as client:
        url = str(client.base_url).rstrip("/")
        assert main(["audit", "verify", str(ours), "--against", url, "--served-name", "prm", "--verbose"]) == 0
    assert "the engine's rewards of all steps are Assay's" in " ".join(capsys.readouterr().out.split())
