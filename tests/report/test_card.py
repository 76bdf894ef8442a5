"""The model card: sound front matter, tables that no text can break, and nothing said that was not recorded."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import pytest

from assay.records import Finding, Metric, Report, Table
from assay.report.card import render_card

NASTY = "a | b\n---\n```python\nrm\n``` `tick` <script> [x](y) # *bold* \x00 \u202e \ud800"
DESCRIPTION: dict[str, Any] = {
    "title": "starter-7",
    "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
    "base_revision": "7ae557604adf67be",
    "base_license": "Apache-2.0",
    "base_note": "weights are Q4_1 quantised",
    "kind": "scalar",
    "objective": "bradley-terry",
    "params": "blocks:4",
    "data": [{"name": "starter-v1", "num_pairs": 12800, "fingerprint": "9ab0", "note": "written by hand"}],
    "data_note": "written by the project, not human preferences",
    "splits": {"train": {"num_pairs": 11000, "fingerprint": "aa11"}, "test": {"num_pairs": 1600, "fingerprint": "bb22"}},
    "settings": {"learning rate": {"value": 1e-5, "reason": "a tenth of the base's own"}, "seed": 17},
    "max_length": 4096,
    "overlong": "refuse",
    "dtype": "float32",
    "calibration": {"temperature": 1.83, "split": "calibration", "brier_before": 0.201, "brier_after": 0.184, "knots": [0.0] * 9},
    "versions": {"assay": "0.1.0", "torch": "2.9.0"},
    "fingerprint": "4f1c09ab77d2e81c",
}
REPORT = Report(
    title="Held-out pairs",
    metrics=(
        Metric("accuracy", 0.7342, 0.7108, 0.7561, 1585, 1600),
        Metric("accuracy: length baseline", 0.5821, 0.557, 0.6071, 1600, 1600),
        Metric("mean margin", -0.25, -0.5, 0.0, 10, 10),
        Metric("agreement", math.nan, note="one rater only"),
    ),
    tables=(
        Table(
            title="by axis",
            columns=("slice", "accuracy", "low", "high"),
            rows=(("safety", 0.7, 0.6, 0.8), ("maths", math.nan, None, None)),
        ),
    ),
    findings=(
        Finding("ok", "better than chance", 0.73, 0.5, "the interval starts at 0.711"),
        Finding("warn", "length dependence", 0.2, 0.15, "a policy will exploit length"),
        Finding("fail", "calibration", math.nan, math.nan, "no probabilities"),
    ),
)


def front_matter(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("\n---\n", 1)[0])


def rows_of(card: str) -> list[list[str]]:
    """Cells of every table row; a pipe that is escaped separates nothing."""
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in card.splitlines() if line.startswith("|")]


def test_front_matter() -> None:
    assert front_matter(render_card(DESCRIPTION, [REPORT])) == {
        "license": "apache-2.0",
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "assay"],
    }


def test_what_is_recorded_is_said() -> None:
    card = render_card(DESCRIPTION, [REPORT])
    for shown in (
        "# starter-7",
        "the last 4 blocks and the head",
        "Q4_1 quantised",
        "written by the project, not human preferences",
    ):
        assert shown in card
    rows = rows_of(card)
    for row in (
        ["starter-v1", "12,800", "`9ab0`", "written by hand"],
        ["test", "1,600", "`bb22`"],
        ["learning rate", "1e-05", "a tenth of the base's own"],
        ["seed", "17", ""],
        ["accuracy", "0.734", "0.711 to 0.756", "1,585 / 1,600", ""],
        ["accuracy: length baseline", "0.582", "0.557 to 0.607", "1,600 / 1,600", ""],
        ["mean margin", "-0.250", "-0.500 to 0.000", "10 / 10", ""],
        ["agreement", "could not be computed", "none", "not stated", "one rater only"],
        ["safety", "0.700", "0.600", "0.800"],
        ["maths", "n/a", "n/a", "n/a"],
        ["temperature", "1.83"],
        ["knots", "9 numbers, 0 to 0"],
        ["brier", "0.201", "0.184"],
        ["torch", "2.9.0"],
    ):
        assert row in rows, row
    assert "`4f1c09ab77d2e81c`" in card


def test_limits_name_the_worst_first_and_what_could_not_be_computed() -> None:
    limits = render_card(DESCRIPTION, [REPORT]).split("## Limits")[1].split("## Versions")[0]
    order = ["FAIL: calibration", "WARN: length dependence", "agreement: could not be computed", "OK: better than chance"]
    positions = [limits.index(part) for part in order]
    assert positions == sorted(positions)
    assert "(could not be computed). no probabilities" in limits


def test_what_is_missing_is_not_invented() -> None:
    card = render_card({}, [])
    assert front_matter(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "assay"],
    }
    assert {row[1] for row in rows_of(card) if len(row) == 2 and row[0] not in ("", "---")} == {"not recorded"}
    for part in ("Sources: not recorded", "Splits: not recorded", "Settings: not recorded", "Evaluation: not recorded"):
        assert part in card
    assert "do not read sigmoid(margin) as a probability" in card
    assert "No checks were recorded" in card
    assert not re.search(r"apache|Qwen|None|nan", card)


def test_the_code_in_it_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", render_card({}, []), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)
    assert "assay.load(" in blocks[0]
    assert "apply_chat_template" in blocks[1]
    assert "logits[0, 0]" in blocks[1]
    assert "torch.float32" in blocks[1]


def planted(value: Any) -> Any:
    """The same structure with every text, keys of free mappings included, made as hostile as can be."""
    if isinstance(value, str):
        return NASTY
    if isinstance(value, list):
        return [planted(entry) for entry in value]
    return {key: planted(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def test_hostile_texts_break_neither_tables_nor_front_matter_nor_fences() -> None:
    description = planted(DESCRIPTION)
    for name in ("splits", "settings", "versions", "calibration"):
        description[name] = {**description[name], NASTY: {"value": NASTY, "reason": NASTY} if name == "settings" else NASTY}
    report = Report(
        title=NASTY,
        metrics=(Metric(NASTY, 0.5, note=NASTY),),
        tables=(Table(title=NASTY, columns=(NASTY, "low", "high"), rows=((NASTY, 0.1, 0.2),), note=NASTY),),
        findings=tuple(Finding(level, NASTY, 1, 2, NASTY) for level in ("ok", "warn", "fail")),  # type: ignore[arg-type]
        facts={NASTY: NASTY},
    )
    card = render_card(description, [report])
    card.encode("utf-8")
    assert front_matter(card) == {**front_matter(render_card({}, [])), "license": "other"}
    body = card.split("\n---\n", 1)[1]
    assert not re.search(r"^---", body, re.MULTILINE)
    assert len(re.findall(r"^\s*```", body, re.MULTILINE)) == 4  # the fences of the two examples
    assert "<script" not in body
    assert not re.search("[\x00\u202e\ud800]", body)
    prose = re.sub(r"```python.*?```", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)`tick", prose)
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        widths = {len(row) for row in rows_of(table)}
        assert len(widths) == 1, table
    known = [line for line in render_card(DESCRIPTION, [REPORT]).splitlines() if line.startswith("## ")]
    assert [line for line in body.splitlines() if line.startswith("## ")] == known


@pytest.mark.parametrize(
    ("base", "kept"), [("a/b", "a/b"), ("/models/x.gguf", None), ("a/b\nlicense: mit", None), ("123/4", "123/4")]
)
def test_base_model_is_in_the_front_matter_only_as_a_hub_name(base: str, kept: str | None) -> None:
    assert front_matter(render_card({"base_model": base}, [])).get("base_model") == kept


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("full", "all weights"),
        ("head", "the head alone, on a frozen backbone"),
        ("blocks:2", "the last 2 blocks and the head"),
        (None, "not recorded"),
    ],
)
def test_trained_weights(params: str | None, said: str) -> None:
    assert ["trained weights", said] in rows_of(render_card({"params": params}, []))


def test_an_ensemble_says_what_its_members_share_and_how_it_is_loaded() -> None:
    entry = {"form": "heads", "members": 5, "combine": "mean", "penalty": 1.0}
    card = render_card({**DESCRIPTION, "ensemble": entry}, ())
    assert "5, heads on one backbone; mean less 1 x standard deviation" in card
    assert "gives the mean of the members" in card
    assert "AutoModelForSequenceClassification" in card
    card = render_card({**DESCRIPTION, "kind": "ensemble", "ensemble": {**entry, "form": "blocks", "combine": "min"}}, ())
    assert "5, their own last blocks over one trunk; the lowest" in card
    assert "assay model export" in card
    assert "AutoModelForSequenceClassification" not in card, "plain transformers cannot load it"
    assert "members" not in render_card(DESCRIPTION, ())
