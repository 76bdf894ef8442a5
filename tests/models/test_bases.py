"""Bases: hub ids, directories and GGUF files, told apart by looking."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from assay.models.backbone import load_backbone
from assay.models.bases import NOTE_FILE, Base, cache_dir, resolve_base
from tiny import save_tiny_base


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
