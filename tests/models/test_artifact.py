"""The artifact: what plain transformers loads gives the same scores, and nothing altered goes unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, MambaConfig, MambaModel, pipeline

from assay.data.tokens.packing import make_group, pack
from assay.errors import ArtifactError
from assay.models.backbone import Backbone
from assay.models.reward_model import RewardModel, new_head
from assay.models.saved import artifact
from assay.models.saved.artifact import load_artifact, save_artifact, verify_digest
from assay.models.saved.plain import plain_scores
from assay.records import Completion
from assay.run_files import REWARD_FILE, fingerprint, read_description, write_description
from assay.scorers.local import LocalScorer
from tiny import CHATML, tiny_backbone, tiny_model, tiny_renderer

ANSWERS = ["Put it in water.", "Put it in water", "five", "It is four, not five. " * 4, "<think> hmm </think> a story", "a 🥚 水"]
COMPLETIONS = [Completion(messages=f"How do I boil {i // 3} egg?", response=answer) for i, answer in enumerate(ANSWERS)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_artifact(tiny_model(), tiny_renderer(), tmp_path / "artifact", {"base": "tiny"})
    return tmp_path / "artifact"


def our_scores(path: Path) -> np.ndarray:
    loaded = load_artifact(path)
    return LocalScorer(loaded.model, loaded.renderer, identity="test").score(COMPLETIONS).value


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
@pytest.mark.parametrize("template", [CHATML, None])
def test_plain_transformers_gives_the_same_scores(kind, template, tmp_path):
    model, renderer = tiny_model(kind), tiny_renderer(template)
    save_artifact(model, renderer, tmp_path / "artifact", {})
    before = LocalScorer(model, renderer, identity="test").score(COMPLETIONS).value
    np.testing.assert_allclose(our_scores(tmp_path / "artifact"), before, atol=1e-5)
    for batch_size in (1, 4, 6):
        plain = plain_scores(tmp_path / "artifact", COMPLETIONS, batch_size=batch_size)
        np.testing.assert_allclose(plain, before, atol=1e-5)
    assert np.ptp(before) > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_plain_transformers_reads_the_rewarded_token_on_either_side_of_the_padding(saved, side):
    tokenizer = AutoTokenizer.from_pretrained(saved, padding_side=side)
    model = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32).eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": completion.messages[0].content}, {"role": "assistant", "content": completion.response}],
            tokenize=False,
        )
        for completion in COMPLETIONS
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    assert (inputs["attention_mask"] == 0).any()
    with torch.no_grad():
        scores = model(**inputs).logits[:, 0].numpy()
    np.testing.assert_allclose(scores, our_scores(saved), atol=1e-5)
    assert (model.config.num_labels, model.config.id2label) == (1, {0: "reward"})


def test_the_base_tokenizer_had_pad_equal_to_eos_and_the_artifact_has_not(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved)
    config = json.loads((saved / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_pipeline_of_transformers_gives_the_reward_without_a_sigmoid(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved)
    conversation = [{"role": "user", "content": "How do I boil 0 egg?"}, {"role": "assistant", "content": ANSWERS[0]}]
    told = pipeline("text-classification", str(saved), device="cpu")(tokenizer.apply_chat_template(conversation, tokenize=False))
    assert told[0]["score"] == pytest.approx(our_scores(saved)[0], abs=1e-5)
    assert not 0.01 < told[0]["score"] < 0.99, "a sigmoid would be seen"


def test_the_tokenizer_of_the_artifact_cuts_long_texts_at_the_front(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert (tokenizer.truncation_side, tokenizer.model_max_length) == ("left", 1024)


def test_what_is_saved_comes_back(saved):
    description = read_description(saved)
    assert description["base"] == "tiny"
    assert (description["max_length"], description["overlong"], description["dtype"]) == (1024, "keep_end", "float32")
    assert description["head"] == {"name": "score", "members": 1, "dtype": "float32"}
    loaded = load_artifact(saved)
    assert loaded.description == description
    assert (loaded.renderer.max_length, loaded.renderer.overlong) == (1024, "keep_end")
    assert not loaded.model.training
    verify_digest(saved)


def test_a_pinned_date_and_an_appended_eos_survive_a_reload(tmp_path):
    for i, template in enumerate(["{{ strftime_now('%d %b') }}", "{% set f = '%Y' %}{{ strftime_now(f) }}"]):
        renderer = tiny_renderer(template + CHATML.replace("<|im_end|>", ""))
        assert len(renderer.template_changes) == 2
        save_artifact(tiny_model(), renderer, tmp_path / str(i), {})
        again = load_artifact(tmp_path / str(i)).renderer
        assert again.render(COMPLETIONS)[0].tokens.tolist() == renderer.render(COMPLETIONS)[0].tokens.tolist()


def test_saved_in_bfloat16_the_head_stays_float32(tmp_path):
    save_artifact(tiny_model(), tiny_renderer(), tmp_path / "half", {}, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {name: value.dtype for name, value in tensors.items() if "score" in name} == {"score.weight": torch.float32}
    assert all(value.dtype == torch.bfloat16 for name, value in tensors.items() if "score" not in name)
    assert read_description(tmp_path / "half")["dtype"] == "bfloat16"
    loaded = load_artifact(tmp_path / "half", dtype=torch.bfloat16)
    torch.testing.assert_close(loaded.model.head.weight, tiny_model().head.weight, atol=0, rtol=0)
    assert next(loaded.model.backbone.parameters()).dtype == torch.bfloat16


# Nothing altered goes unnoticed


def rewrite_weights(path: Path, change) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["score.weight", "model.layers.2.self_attn.q_proj.weight"])
def test_a_missing_weight_is_never_made_up(saved, name):
    rewrite_weights(saved, lambda tensors: tensors.pop(name))
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load_artifact(saved)


def test_a_head_of_another_shape_is_refused(saved):
    rewrite_weights(saved, lambda tensors: tensors.update({"score.weight": torch.zeros(1, 16)}))
    with pytest.raises(ArtifactError):
        load_artifact(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", REWARD_FILE])
def test_a_missing_file_is_an_artifact_error(saved, file):
    (saved / file).unlink()
    with pytest.raises(ArtifactError):
        load_artifact(saved)


def test_weights_that_were_cut_short_are_an_artifact_error(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_artifact(saved)


def test_altered_weights_do_not_verify(saved):
    rewrite_weights(saved, lambda tensors: tensors["score.weight"].mul_(1.001))
    with pytest.raises(ArtifactError, match="weights were changed"):
        verify_digest(saved)


@pytest.mark.parametrize("change", [{"max_length": 512}, {"overlong": "set_aside"}, {"calibration": {"temperature": 2.0}}])
def test_edited_settings_do_not_verify(saved, change):
    (saved / REWARD_FILE).write_text(json.dumps({**read_description(saved), **change}))
    with pytest.raises(ArtifactError, match=r"reward\.json was edited"):
        verify_digest(saved)


def test_another_chat_template_is_refused(saved):
    (saved / "chat_template.jinja").write_text(CHATML.replace("message['role']", "message['role'] | upper"))
    with pytest.raises(ArtifactError, match="chat template is not the one"):
        load_artifact(saved)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ('{"schema_version": 2}', "has schema 2, this Assay reads 1: upgrade"),
        ('{"schema_version": 1, "fingerprint": "x"}', "lacks calibration, dtype, max_length"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(saved, text, reason):
    (saved / REWARD_FILE).write_text(text)
    for reader in (read_description, load_artifact, verify_digest):
        with pytest.raises(ArtifactError, match=reason):
            reader(saved)


def test_a_directory_that_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no reward\.json"):
        load_artifact(tmp_path)


def test_the_fingerprint_is_of_what_decides_a_score(tmp_path):
    def saved_fingerprint(name, *, seed=0, template=CHATML, dtype=torch.float32, description=None, **settings):
        model, renderer = tiny_model(seed=seed), tiny_renderer(template, **settings)
        return save_artifact(model, renderer, tmp_path / name, description or {}, dtype=dtype)["fingerprint"]

    same = saved_fingerprint("same")
    assert saved_fingerprint("again", description={"base": "another name"}) == same
    changed = [
        saved_fingerprint("weights", seed=1),
        saved_fingerprint("template", template=CHATML.replace("im_end|>\n", "im_end|>")),
        saved_fingerprint("length", max_length=512),
        saved_fingerprint("overlong", overlong="set_aside"),
        saved_fingerprint("dtype", dtype=torch.bfloat16),
        saved_fingerprint("calibration", description={"calibration": {"temperature": 2.0}}),
    ]
    assert len({same, *changed}) == 7
    for other in ("bfloat16", "float16"):
        assert fingerprint({**read_description(tmp_path / "same"), "dtype": other}) != same


def test_a_calibration_written_later_brings_the_fingerprint_up_to_date(saved):
    before = read_description(saved)
    after = write_description(saved, {**before, "calibration": {"temperature": 2.0}})
    assert after == read_description(saved)
    assert after["fingerprint"] != before["fingerprint"]
    verify_digest(saved)


# Saving is all or nothing


def test_a_save_that_fails_leaves_the_old_artifact_and_nothing_else(saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(artifact, "weights_digest", fail)
    with pytest.raises(OSError, match="disk full"):
        save_artifact(tiny_model(seed=1), tiny_renderer(), saved, {})
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [file.name for file in saved.parent.iterdir()] == ["artifact"]


def test_a_save_replaces_the_old_artifact_whole(saved):
    (saved / "left_over.txt").write_text("of the old one")
    written = save_artifact(tiny_model(seed=1), tiny_renderer(), saved, {})
    assert read_description(saved) == written
    assert not (saved / "left_over.txt").exists()
    assert [file.name for file in saved.parent.iterdir()] == ["artifact"]
    verify_digest(saved)


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_artifact(model, tiny_renderer(), tmp_path / "artifact", {}, dtype=torch.bfloat16)
    assert all(torch.equal(value, before[name]) and value.dtype == torch.float32 for name, value in model.state_dict().items())
    tokens = np.arange(3, 9, dtype=np.int32)
    model(pack([make_group([tokens], [np.array([5], np.int32)])], 99)[0]).sum().backward()
    assert model.head.weight.grad is not None


def test_what_plain_transformers_cannot_hold_is_refused(tmp_path):
    mamba = Backbone(MambaModel(MambaConfig(vocab_size=400, hidden_size=32, state_size=4, num_hidden_layers=1)))
    with pytest.raises(ValueError, match="no sequence-classification class for MambaConfig"):
        save_artifact(RewardModel(mamba, new_head(32, seed=0)), tiny_renderer(), tmp_path / "mamba", {})
    assert list(tmp_path.iterdir()) == []


def test_a_head_of_labels_or_attributes_is_not_taken_for_an_ensemble(tmp_path):
    backbone = tiny_backbone()
    assert RewardModel(backbone, new_head(32, 3, seed=0)).num_members == 3
    for outputs in ("labels", "attributes"):
        model = RewardModel(backbone, new_head(32, 3, seed=0), outputs=outputs)
        with pytest.raises(ValueError, match=f"the head gives {outputs}, not rewards"):
            save_artifact(model, tiny_renderer(), tmp_path / "artifact", {})
        with pytest.raises(ValueError, match=f"the head gives {outputs}, not rewards"):
            LocalScorer(model, tiny_renderer(), identity="x")
    assert list(tmp_path.iterdir()) == []


def test_a_new_pad_token_needs_a_row_of_embeddings(tmp_path):
    renderer = tiny_renderer()
    backbone = tiny_backbone()
    backbone.model.resize_token_embeddings(2)
    renderer.tokenizer.pad_token = "<|im_end|>"
    renderer.pad_id = 2
    model = RewardModel(backbone, new_head(32, seed=0))
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        save_artifact(model, renderer, tmp_path / "artifact", {})
    backbone.model.resize_token_embeddings(400)
    save_artifact(model, renderer, tmp_path / "artifact", {})
    assert load_artifact(tmp_path / "artifact").model.backbone.model.get_input_embeddings().num_embeddings == 400
