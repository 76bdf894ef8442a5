"""A kind of training is a module of one folder that answers all that a run asks; an unknown name is refused."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules

import pytest

import assay.training.tasks
from assay.models.heads import HEADS
from assay.training.settings import Members
from assay.training.tasks.task import Kind, kind_of
from tiny import toy_pairs
from toy_runs import config_of

NAMES = sorted({module.name for module in iter_modules(assay.training.tasks.__path__)} - {"task"})
ASKED = {name: function for name, function in vars(Kind).items() if inspect.isfunction(function) and not name.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_answers_all_that_a_run_asks(name):
    module = import_module(f"assay.training.tasks.{name}")
    assert kind_of(name) is module
    assert module.OUTPUTS in ("members", "labels", "attributes", "steps")
    assert module.HEAD in HEADS
    assert {"read_rows", "build_task", "measure"} <= ASKED.keys()
    for asked, function in ASKED.items():
        expected = list(inspect.signature(function).parameters)[1:]
        assert list(inspect.signature(getattr(module, asked)).parameters) == expected, asked


def test_an_unknown_kind_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"--kind prices is not known: use .*pairs"):
        kind_of("prices")
    with pytest.raises(ValueError, match="--kind task is not known"):
        kind_of("task")  # the protocols, no kind
    with pytest.raises(ValueError, match="--ensemble 3 is of models of pairs"):
        config_of(tmp_path, toy_pairs(4), kind="prices", members=Members(ensemble=3))
