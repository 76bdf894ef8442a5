"""The house: sizes of modules and functions, one name for one module, and which modules load torch when they are imported."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from assay.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
MODULES = {".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): file for file in SRC.rglob("*.py")}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70
COMPUTES_WITH_TORCH = (
    "assay.models.",
    "assay.training.",
    "assay.audit.parity.",
    "assay.generation.decode_loop",
    "assay.generation.local_model",
    "assay.scorers.local",
    "assay.scorers.steps.step_models",
    "assay.scorers.packed_reads",
    "assay.evaluation.rescale",
    "assay.rl.loop.",
    "assay.rl.refresh.",
)
"""Modules, and rooms where the name ends with a dot, that may load torch when they are imported."""


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def names_of(file: Path) -> set[str]:
    """What can be imported from a module: what it defines or imports at its top, also under `if TYPE_CHECKING`."""
    found: set[str] = set()
    for node in ast.walk(parsed(file)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name for alias in names}
    return found


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(parsed(file))
    return (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imported_at_the_top(file: Path) -> set[str]:
    """What a module imports when it is imported itself: not in functions, and not for the type checker alone."""
    found: set[str] = set()
    for node in parsed(file).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def loads_torch(imports: dict[str, set[str]]) -> set[str]:
    """The modules that load torch or transformers when they are imported, through others of them too."""
    loading = {name for name, names in imports.items() if any(one.split(".")[0] in ("torch", "transformers") for one in names)}
    while more := {name for name in imports.keys() - loading if imports[name] & loading}:
        loading |= more
    return loading


def test_modules_are_short():
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_functions_are_short():
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, file in MODULES.items()
        for node in functions(file)
        if node.end_lineno and node.end_lineno - node.lineno + 1 >= MAX_FUNCTION_LINES
    }
    assert long == {}


def test_no_two_modules_have_one_name():
    apart = ("assay.commands.", "assay.training.tasks.")
    counts = Counter(name.rpartition(".")[2] for name in MODULES if not name.startswith(apart))
    packages = {name.rpartition(".")[2] for name, file in MODULES.items() if file.name == "__init__.py"}
    assert {name for name, count in counts.items() if count > 1 and name not in packages} == set()


def test_only_modules_that_compute_with_torch_load_it():
    loading = loads_torch({name: imported_at_the_top(file) for name, file in MODULES.items()})
    commands = {
        f"assay.commands.{command.module}": command.needs_torch for group in COMMANDS.values() for command in group.values()
    }
    assert "assay.models.reward_model" in loading
    assert {name for name in loading if not name.startswith(COMPUTES_WITH_TORCH) and not commands.get(name)} == set()


def test_what_benchmarks_and_scripts_import_is_there():
    wrong, num_named = [], 0
    for script in [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("dev/*.py")]:
        for node in ast.walk(parsed(script)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "assay":
                known = names_of(MODULES[node.module]) if node.module in MODULES else set()
                names = {alias.name for alias in node.names if f"{node.module}.{alias.name}" not in MODULES}
                num_named += len(node.names)
                wrong += [f"{script.name}: {node.module}.{name}" for name in sorted(names - known)]
    assert num_named > 50
    assert wrong == []


@pytest.mark.parametrize("module", [command.module for group in COMMANDS.values() for command in group.values()])
def test_a_command_has_a_config_and_a_run(module):
    tree = parsed(MODULES[f"assay.commands.{module}"])
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    imported = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"Config", "run"} <= defined | imported
