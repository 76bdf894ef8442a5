"""Checkpoints are safetensors and JSON, appear whole or not at all, and a damaged one is passed over."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import assay
from assay.errors import CheckpointError, TrainingError
from assay.training import checkpoint as module
from assay.training.checkpoint import is_disk_full, latest_checkpoint, restore_checkpoint, save_checkpoint


def trained_model(seed: int = 0, num_steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1, bias=False))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(num_steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()


def test_a_restored_run_goes_on_bit_by_bit(tmp_path):
    model, optimizer = trained_model()
    save_checkpoint(tmp_path, 3, model, optimizer, {"identity": "me", "num_rows": 7})
    for _ in range(4):
        step(model, optimizer)
    other, other_optimizer = trained_model(seed=1, num_steps=0)
    other[0].bias.data.copy_(model[0].bias)  # frozen parameters are the base's and are not in the checkpoint
    resumed = latest_checkpoint(tmp_path)
    assert resumed is not None
    assert (resumed.step, resumed.state["identity"], resumed.state["num_rows"]) == (3, "me", 7)
    restore_checkpoint(resumed, other, other_optimizer)
    for _ in range(4):
        step(other, other_optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_files_are_safetensors_and_json_only_and_hold_trained_parameters_alone(tmp_path):
    model, optimizer = trained_model()
    path = save_checkpoint(tmp_path, 3, model, optimizer, {"identity": "me"})
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert module.load_file(path / "model.safetensors").keys() == {"0.weight", "1.weight"}
    state = json.loads((path / "state.json").read_text())
    assert state["digests"].keys() == {"model.safetensors", "optimizer.safetensors"}


def test_nothing_in_the_package_reads_or_writes_a_pickle():
    forbidden = re.compile(
        r"torch\.(load|save)\(|\b(import|from) (pickle|cloudpickle|dill|joblib|shelve|marshal)\b|allow_pickle=True"
    )
    source = Path(assay.__file__).parent
    files = sorted(source.rglob("*.py"))
    assert len(files) > 20
    assert [str(file) for file in files if forbidden.search(file.read_text())] == []


def test_only_the_last_two_are_kept(tmp_path):
    model, optimizer = trained_model()
    for number in (5, 10, 15, 100):
        save_checkpoint(tmp_path, number, model, optimizer, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000015", "step-00000100"]


def test_no_checkpoint_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


DAMAGES = {"cut short": cut, "a flipped bit": flip, "gone": lambda file: file.unlink(), "empty": lambda file: file.write_bytes(b"")}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_told(tmp_path, name, damage):
    model, optimizer = trained_model()
    for number in (10, 20):
        save_checkpoint(tmp_path, number, model, optimizer, {"identity": "me", "num_rows": 1})
    DAMAGES[damage](tmp_path / "step-00000020" / name)
    resumed = latest_checkpoint(tmp_path)
    assert resumed is not None
    assert resumed.step == 10
    assert len(resumed.state["passed_over"]) == 1
    assert "step-00000020" in resumed.state["passed_over"][0]


@pytest.mark.parametrize("text", ["[1]", "null", '"x"', "{}", "\xff\xfe", '{"step": 20, "digests": {}}'])
def test_a_state_that_is_no_state_is_passed_over(tmp_path, text):
    model, optimizer = trained_model()
    for number in (10, 20):
        save_checkpoint(tmp_path, number, model, optimizer, {})
    (tmp_path / "step-00000020" / "state.json").write_bytes(text.encode("latin-1"))
    resumed = latest_checkpoint(tmp_path)
    assert resumed is not None
    assert resumed.step == 10


def test_any_flipped_bit_of_the_state_is_noticed(tmp_path):
    """A wrong step or number of rows would be taken up without a word, were the state itself not under a digest."""
    model, optimizer = trained_model()
    save_checkpoint(tmp_path, 1, model, optimizer, {"identity": "me", "num_rows": 1})
    path = save_checkpoint(tmp_path, 2, model, optimizer, {"identity": "me", "num_rows": 4})
    whole = (path / "state.json").read_bytes()
    text = json.loads(whole)
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1
        (path / "state.json").write_bytes(altered)
        resumed = latest_checkpoint(tmp_path)
        assert resumed is not None
        if resumed.step == 2:  # white space: says the same
            assert json.loads(altered) == text
        else:
            assert resumed.step == 1


def test_all_damaged_is_an_error_that_names_them(tmp_path):
    model, optimizer = trained_model()
    for number in (10, 20):
        save_checkpoint(tmp_path, number, model, optimizer, {})
        cut(tmp_path / f"step-{number:08d}" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole .*step-00000020.*step-00000010.*delete them"):
        latest_checkpoint(tmp_path)


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    model, optimizer = trained_model()
    save_checkpoint(tmp_path, 3, model, optimizer, {})
    model[0].bias.requires_grad_(True)
    resumed = latest_checkpoint(tmp_path)
    assert resumed is not None
    with pytest.raises(CheckpointError, match="other parameters than this run trains"):
        restore_checkpoint(resumed, model, optimizer)


FULL = {
    "ENOSPC": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "EDQUOT": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_keeps_the_last_good_checkpoint_and_leaves_no_half_one(tmp_path, monkeypatch, error):
    model, optimizer = trained_model()
    save_checkpoint(tmp_path, 10, model, optimizer, {})

    def save_half(tensors, file):
        if "optimizer" in file.name:
            file.write_bytes(b"half")
            raise FULL[error]
        save_file(tensors, file)

    save_file = module.save_file
    monkeypatch.setattr(module, "save_file", save_half)
    with pytest.raises(TrainingError, match=r"disk is full at checkpoint 20 .*step-00000010.*--resume"):
        save_checkpoint(tmp_path, 20, model, optimizer, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    resumed = latest_checkpoint(tmp_path)
    assert resumed is not None
    assert resumed.step == 10


def test_another_error_while_saving_is_raised_as_it_is(tmp_path, monkeypatch):
    def broken(tensors, file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "save_file", broken)
    with pytest.raises(OSError, match="Input/output"):
        save_checkpoint(tmp_path, 20, *trained_model(), {})
    assert list(tmp_path.iterdir()) == []


def test_what_counts_as_a_full_disk():
    assert all(is_disk_full(error) for error in FULL.values())
    assert is_disk_full(OSError(errno.EFBIG, "file too large"))
    assert not is_disk_full(OSError(errno.EIO, "broken"))
    assert not is_disk_full(ValueError("no space"))
