"""LoRA members over one trunk: nothing below the adapters moves, members differ, and a stopped run ends in the same place."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assay.models.saved.ensemble_files import load_blocks
from assay.models.saved.plain import plain_scores
from assay.records import Completion
from assay.run_files import read_description, saved_scales
from assay.scorers.ensemble import members_of
from assay.scorers.load import load
from assay.training.fits.members import renew_adapters
from assay.training.prepare import prepare
from assay.training.run import train
from assay.training.settings import Members
from tiny import toy_pairs
from toy_runs import MACHINE, config_of

pytestmark = pytest.mark.slow
ANSWERS = [Completion(messages=f"Tell me about egg {i}", response=f"It is {word}.") for i in range(3) for word in ("water", "lazy")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    settings = {"params": "lora:2:1", "depth": "3", "learning_rate": 5e-3, "members": Members(ensemble=2, combine="robust")}
    config = config_of(folder, toy_pairs(80), **settings)
    train(config)
    return config


def test_members_share_every_tensor_below_the_adapters_and_have_their_own_above(run):
    artifact = run.out / "artifact"
    entry = read_description(artifact)["ensemble"]
    assert (entry["form"], entry["blocks"], entry["combine"]) == ("blocks", 1, "robust")
    base, first = load_file(run.out.parent / "base" / "model.safetensors"), load_file(artifact / "members/0/model.safetensors")
    own = load_file(artifact / "members/1.safetensors")
    assert {name.split(".")[1] for name in own if name != "score.weight"} == {"2"}, "the last of three layers alone"
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        assert torch.equal(first[name], base[name])
    changed = "layers.2.mlp.up_proj.weight"
    assert not torch.equal(first[f"model.{changed}"], base[f"model.{changed}"])
    assert not torch.equal(own[changed], first[f"model.{changed}"])
    rank = torch.linalg.matrix_rank((own[changed] - base[f"model.{changed}"]).double(), rtol=1e-4)
    assert rank == 2, "adapters of rank 2, merged"


def test_the_trunk_runs_once_and_each_member_gives_what_it_gives_alone(run):
    loaded = load_blocks(run.out / "artifact")
    assert loaded.model.backbone.num_layers == 2
    assert [top.backbone.num_layers for top in loaded.model.tops] == [1, 1]
    scorer = load(run.out, dtype="float32", device="cpu")
    members_KN = members_of(scorer).score_members(ANSWERS)
    assert (members_KN.std(axis=0) > 1e-4).all()
    first = saved_scales(read_description(run.out / "artifact"))[0]
    alone = plain_scores(run.out / "artifact" / "members" / "0", ANSWERS)
    np.testing.assert_allclose(members_KN[0] + first.centre, alone, atol=1e-5)


def test_a_run_that_was_stopped_in_its_second_member_ends_in_the_same_place(run):
    out = run.out.with_name("resumed")
    shutil.copytree(run.out, out, ignore=shutil.ignore_patterns("artifact", "cache"))
    kept = sorted((out / "members" / "1" / "checkpoints").glob("step-*"))
    assert len(kept) >= 1
    for checkpoint in kept[-1:]:
        shutil.rmtree(checkpoint)
    train(replace(run, out=out, machine=replace(MACHINE, resume=True)))
    for name in ("members/0/model.safetensors", "members/1.safetensors"):
        whole, resumed = (load_file(where / "artifact" / name) for where in (run.out, out))
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items()), name


def test_other_adapters_begin_at_the_base_s_own_rewards(tmp_path):
    prepared = prepare(config_of(tmp_path, toy_pairs(20), params="lora:2:1", depth="3"))
    rows, seen = np.arange(10), []
    before_P2 = prepared.task.rewards(prepared.model, rows)
    for seed in (1, 2):
        renew_adapters(prepared.model, seed)
        seen.append([value.clone() for name, value in prepared.model.named_parameters() if "lora_A" in name])
        np.testing.assert_array_equal(prepared.task.rewards(prepared.model, rows), before_P2)
    assert len(seen[0]) == 7, "every linear map of one layer"
    assert not any(torch.equal(one, two) for one, two in zip(*seen, strict=True))
    trained = {name for name, value in prepared.model.named_parameters() if value.requires_grad}
    assert all("lora" in name or name.startswith("head") for name in trained)
