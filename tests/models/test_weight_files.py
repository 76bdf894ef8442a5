"""Weight files are looked at before anything is loaded: pickles, cut and missing files are refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assay.models.published.weight_files import INDEX, stored_tensors


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def test_names_shapes_and_formats_are_those_of_the_file(tmp_path):
    found = stored_tensors(saved(tmp_path / "m", a=torch.zeros(2, 3), b=torch.zeros(4, dtype=torch.bfloat16)))
    assert {name: (stored.shape, stored.dtype) for name, stored in found.items()} == {"a": ((2, 3), "F32"), "b": ((4,), "BF16")}


@pytest.mark.parametrize("left", [0, 5, 40, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path, left):
    file = saved(tmp_path / "m", a=torch.zeros(64)) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"model\.safetensors is (cut short|no whole safetensors file).*fetch it again"):
        stored_tensors(file.parent)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_text("<html>not found</html>" * 10)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        stored_tensors(tmp_path)


def test_a_missing_part_is_named(tmp_path):
    path = saved(tmp_path / "m", a=torch.zeros(2))
    parts = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / INDEX).write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(ValueError, match=r"lacks 1 of its 2 weight files, such as model-00002-of-00002\.safetensors"):
        stored_tensors(path)


def test_pickled_weights_are_refused_with_a_line_that_converts_them(tmp_path):
    wanted = {"v_head.summary.weight": torch.arange(3.0)[None], "tied": torch.ones(2)}
    torch.save(wanted, tmp_path / "pytorch_model.bin")
    torch.save({"lr": 1}, tmp_path / "training_args.bin")
    with pytest.raises(ValueError, match=r"pickled weights.*Assay reads safetensors only") as refused:
        stored_tensors(tmp_path)
    line = str(refused.value).partition("python -c ")[2].strip('"')
    exec(line, {})  # the line that the message gives, as a shell would run it
    assert stored_tensors(tmp_path).keys() == wanted.keys()


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        stored_tensors(tmp_path)
