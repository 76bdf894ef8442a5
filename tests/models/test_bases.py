"""Bases: hub ids, directories and GGUF files, told apart by looking."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from huggingface_hub import utils as hub
from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.utils import logging

from assay.models.backbone import load_backbone
from assay.models.bases import NOTE_FILE, Base, cache_dir, no_progress_bars, resolve_base
from assay.models.saved.artifact import load_artifact, save_artifact
from tiny import save_tiny_base, tiny_model, tiny_renderer


@pytest.mark.parametrize("missing", ["/nowhere/model", "./nowhere", "~/nowhere-at-all", "a/b/c", "nowhere.gguf"])
def test_a_path_that_is_not_there_is_named(missing):
    with pytest.raises(ValueError, match=f"base {missing!r}: there is no such"):
        resolve_base(missing)


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"directory without config\.json"):
        resolve_base(str(tmp_path))


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "gpt2"])
def test_anything_else_is_a_hub_id(name):
    assert resolve_base(name) == Base(path=name, name=name)


def test_a_directory_is_taken_with_its_note_if_it_has_one(tmp_path):
    path = save_tiny_base(tmp_path / "base")
    assert resolve_base(str(path)) == Base(path=str(path), name="base")
    note = {"name": "Tiny.Q4_1", "note": "weights are Q4_1 quantised", "license": "apache-2.0"}
    (path / NOTE_FILE).write_text(json.dumps(note))
    assert resolve_base(str(path)) == Base(path=str(path), **note)
    assert load_backbone(resolve_base(str(path)).path).num_layers == 4


@pytest.fixture(params=[(True, True), (True, False), (False, True), (False, False)], ids=str)
def bars(request):
    """Whether bars of transformers and of the hub are on, as a user may have set them."""
    for_models, for_downloads = request.param
    (logging.enable_progress_bar if for_models else logging.disable_progress_bar)()
    (hub.enable_progress_bars if for_downloads else hub.disable_progress_bars)()
    yield for_models, for_downloads
    logging.enable_progress_bar()


def drawn(capfd) -> list[str]:
    """Which of the libraries draw a bar."""
    capfd.readouterr()
    for bar, name in ((logging.tqdm, "transformers"), (hub.tqdm, "hub"), (gguf_reader.tqdm, "gguf")):
        assert list(bar([1, 2], desc=name)) == [1, 2]
    written = capfd.readouterr().err
    return [name for name in ("transformers", "hub", "gguf") if name in written]


def test_bars_of_other_libraries_are_off_while_loading_and_as_they_were_afterwards(bars, capfd):
    as_set = [name for name, is_on in (("transformers", bars[0]), ("hub", bars[1]), ("gguf", True)) if is_on]
    assert drawn(capfd) == as_set
    with no_progress_bars():
        assert drawn(capfd) == []
        with no_progress_bars():
            pass
        assert drawn(capfd) == []
    assert drawn(capfd) == as_set
    with pytest.raises(KeyError), no_progress_bars():
        raise KeyError
    assert drawn(capfd) == as_set


def test_saving_and_loading_models_draws_nothing(tmp_path, capfd):
    logging.enable_progress_bar()
    save_artifact(tiny_model(), tiny_renderer(), tmp_path / "a", {})
    load_artifact(tmp_path / "a")
    load_backbone(tmp_path / "a")
    assert capfd.readouterr().err == ""
    assert drawn(capfd) == ["transformers", "hub", "gguf"]


def test_a_file_that_is_not_gguf_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a model" * 50)
    with pytest.raises(ValueError, match="GGUF"):
        resolve_base(str(file))
    assert cache_dir() == tmp_path / "cache"
    assert list(tmp_path.rglob(NOTE_FILE)) == []


def test_a_converted_file_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    file = tmp_path / "Tiny.gguf"
    file.write_bytes(b"the same bytes")
    digest = sha256(b"the same bytes").hexdigest()[:12]
    converted = tmp_path / "bases" / f"Tiny-{digest}"
    converted.mkdir(parents=True)
    (converted / NOTE_FILE).write_text(json.dumps({"name": "Tiny", "note": "weights are Q8_0 quantised", "license": ""}))
    assert resolve_base(str(file)) == Base(path=str(converted), name="Tiny", note="weights are Q8_0 quantised")
