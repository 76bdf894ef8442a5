"""Which form a published process model has: told by its files, asked for where they do not say, refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import assay
from assay.models.published.published_steps import FORMATS, StepsAsked, as_text, form_of_files, read_steps_spec, split_spec
from assay.scorers.opened import open_scorer
from process_models import (
    SAVED,
    save_math_shepherd,
    save_qwen_math_prm,
    save_reasoneval,
    save_rlhflow,
    save_skywork,
    save_token_labels,
)
from tiny import save_tiny_published

TOLD = {
    "qwen-math-prm": save_qwen_math_prm,
    "skywork-o1": save_skywork,
    "reasoneval": save_reasoneval,
}


@pytest.mark.parametrize("form", TOLD)
def test_files_that_say_their_form_need_no_name(form, tmp_path):
    path = TOLD[form](tmp_path / "theirs")
    found = form_of_files(path)
    assert found is FORMATS[form]
    assert open_scorer(path, dtype="float32").scorer.form is FORMATS[form]


def test_a_hub_id_says_its_form():
    for name, form in FORMATS.items():
        for model in form.models:
            assert form_of_files(Path("nowhere"), model).name == name


def test_labels_of_tokens_are_asked_for_by_name(tmp_path):
    path = save_token_labels(tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"labels tokens \(Qwen2ForTokenClassification\).*theirs#trl .*#pure"):
        assay.load(path)
    with pytest.raises(ValueError, match="name it as"):
        open_scorer(path)


def test_a_language_model_is_named_with_its_form(tmp_path):
    with pytest.raises(ValueError, match="A published process model is named with its form, as in PATH#math-shepherd"):
        assay.load(save_math_shepherd(tmp_path / "theirs"))


def test_reward_models_of_one_reward_are_no_process_models(tmp_path):
    assert form_of_files(save_tiny_published(tmp_path / "theirs")) is None


def test_what_stands_behind_the_name():
    assert split_spec("org/name#trl?reduction=mean") == ("org/name", "trl?reduction=mean")
    assert split_spec("vllm+http://127.0.0.1:8000#runs/mine") == ("vllm+http://127.0.0.1:8000#runs/mine", "")
    asked = read_steps_spec("trl?template=a%20b.jinja&reduction=mean&max_length=512")
    assert asked == StepsAsked("trl", "a b.jinja", "mean", 512)
    assert read_steps_spec(as_text(asked)) == asked
    for wrong, why in {
        "qwen": "no known form of process models: use one of math-shepherd, rlhflow",
        "trl?reduce=min": "there is no setting 'reduce'",
        "trl?reduction=sum": "reduction 'sum' is none of min, product, last, mean",
        "trl?max_length=7": "must be a number of tokens, at least 8",
        "trl?min": "settings are written as in",
    }.items():
        with pytest.raises(ValueError, match=why):
            read_steps_spec(wrong)


def test_a_path_that_has_a_hash_in_its_name_is_taken_as_it_is(tmp_path):
    path = save_qwen_math_prm(tmp_path / "a#b")
    assert split_spec(path) == (path, "")
    assert assay.load(path, dtype="float32").form.name == "qwen-math-prm"


def test_a_form_is_given_once_and_to_a_checkpoint_of_others(tmp_path, trained_run):
    path = save_token_labels(tmp_path / "theirs")
    assert assay.load(path, format="pure?reduction=mean", dtype="float32").reduction == "mean"
    with pytest.raises(ValueError, match="both name a form: give one of them"):
        assay.load(f"{path}#trl", format="pure")
    with pytest.raises(ValueError, match="is no checkpoint of others"):
        assay.load(trained_run.path, format="trl")
    with pytest.raises(ValueError, match="name its form too"):
        assay.load(f"{save_tiny_published(tmp_path / 'scalar')}#?reduction=min")


REFUSED = {
    "a head of another form": (lambda path: save_token_labels(path), "skywork-o1", "has no head v_head.summary"),
    "three labels": (lambda path: save_token_labels(path, num_labels=3), "trl", "gives 3 numbers, and #trl reads 2"),
    "no token of the tags": (save_rlhflow, "math-shepherd", "the separator 'ки' is not one token of this tokenizer"),
    "no chat template": (save_token_labels, "rlhflow", "no one chat template"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case, tmp_path):
    save, form, why = REFUSED[case]
    path = save(tmp_path / "theirs")
    with pytest.raises(ValueError, match=why):
        assay.load(f"{path}#{form}")


def test_tied_output_matrices_are_read_from_the_embeddings_and_missing_ones_refused(tmp_path):
    tied = save_math_shepherd(tmp_path / "tied", tied=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    assert "embed_tokens" in assay.load(f"{tied}#math-shepherd", dtype="float32").assumed["head"]
    lost = save_math_shepherd(tmp_path / "lost")
    tensors = load_file(lost / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, lost / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight, and its configuration ties nothing"):
        assay.load(f"{lost}#math-shepherd")


def test_logits_that_a_configuration_changes_are_refused(tmp_path):
    path = save_math_shepherd(tmp_path / "theirs")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"logit_scale": 0.5}))
    with pytest.raises(ValueError, match="its logits are changed by logit_scale"):
        assay.load(f"{path}#math-shepherd")


def test_what_is_assumed_is_said(tmp_path):
    said = {form: assay.load(f"{SAVED[form](tmp_path / form)}#{form}", dtype="float32").assumed for form in SAVED}
    assert all({"form", "head", "steps", "template", "system turn", "truncation", "reduction"} <= set(of) for of in said.values())
    assert "Think." in said["qwen-math-prm"]["system turn"]
    assert "is not in the model's files: give it with template=FILE" in said["reasoneval"]["template"]
    assert "behind a hidden layer with ReLU" in said["qwen-math-prm"]["head"]
    assert "a softmax over these two" in said["math-shepherd"]["head"]
    assert "above 0.85" in said["reasoneval-redundancy"]["reduction"]
