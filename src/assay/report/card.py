"""The model card of an artifact: README.md of a Hugging Face model directory, written from reward.json and the reports.

What the description does not hold is said to be not recorded; nothing is invented. Every text is escaped for Markdown, and every
value of the front matter is a plain YAML scalar or a quoted one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from assay.records import Finding, Metric, Report, Table
from assay.report.text import is_real, number, places, visible

NOT_RECORDED = "not recorded"
MAX_LISTED = 6  # numbers of a list that the card spells out
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LICENSE_ID = re.compile(r"[a-z][a-z0-9.-]*")
PARAMS = {
    "full": "all weights",
    "head": "the head alone, on a frozen backbone",
    "head:mean": "the head and a read of the mean over the text (the last layer), on a frozen backbone",
}

LOAD_ASSAY = """\
```python
import assay

scorer = assay.load("path/to/this/directory")
prompt = [{"role": "user", "content": "Name a prime number above 10."}]
rewards = scorer.score([
    assay.Completion(messages=prompt, response="11 is one."),
    assay.Completion(messages=prompt, response="12 is one."),
])
print(rewards.value)  # one float32 for each completion; NaN, with rewards.error, where it could not be scored
```"""

LOAD_TRANSFORMERS = """\
```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = "path/to/this/directory"
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
messages = [
    {"role": "user", "content": "Name a prime number above 10."},
    {"role": "assistant", "content": "11 is one."},
]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
with torch.no_grad():
    reward = model(**inputs).logits[0, 0].item()
```"""

LEAD = "It gives a number to an answer in a conversation; the better of two answers to one prompt should get the higher number."
COMPARING = "Scores of answers to different prompts cannot be compared."
READING = (
    "A score has no absolute meaning: the training data compares answers to one prompt, so only differences between answers to the "
    "same prompt say anything. Pass the text through this directory's own tokenizer and chat template; another template, or a "
    "plain string, gives other numbers."
)


def render_card(description: Mapping[str, object], reports: Sequence[Report]) -> str:
    """README.md of an artifact as Markdown with YAML front matter.

    description: the content of reward.json; any key may be missing. reports: what was measured on this model, in order.
    """
    title = _md(description.get("title") or "A reward model")
    parts = [
        _front_matter(description),
        f"# {title}\n\n{_what(description)}",
        f"## How to load it\n\n{_how_to_load(description)}",
        f"## Training data\n\n{_training_data(description)}",
        f"## Training\n\n{_settings(description)}",
        f"## Evaluation\n\n{_evaluation(reports)}",
        f"## Calibration\n\n{_calibration(description.get('calibration') or description.get('step_calibration'))}",
        f"## Limits: what it does not know\n\n{_limits(description, reports)}",
        f"## Versions\n\n{_pairs(_mapping(description.get('versions')), 'library', 'version')}",
        f"Fingerprint of the artifact: {_code(description.get('fingerprint'))}. This card was written by Assay from `reward.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _own(description: Mapping[str, object], name: str, usual: str) -> str:
    """What the entry "card" of reward.json, which a head that is no scalar reward brings with it, has in place of the usual."""
    return str(_mapping(description.get("card")).get(name) or usual)


def _how_to_load(description: Mapping[str, object]) -> str:
    ours, reading = _own(description, "load_assay", LOAD_ASSAY), _own(description, "reading", READING)
    return f"With Assay:\n\n{ours}\n\n{_with_transformers(description)}\n\n{reading}"


def _with_transformers(description: Mapping[str, object]) -> str:
    ensemble = _mapping(description.get("ensemble"))
    if ensemble and ensemble.get("form") != "heads":
        return (
            "Plain transformers cannot load an ensemble: `assay model export` writes one of its members as a plain model, "
            "`assay model average` the mean of their weights."
        )
    if description.get("input") == "text pair":
        return "With plain transformers: `AutoModelForSequenceClassification` on `tokenizer(question, answer)`, a pair of texts."
    note = "gives the mean of the members, without their disagreement" if ensemble else ""
    code = _own(description, "load_transformers", LOAD_TRANSFORMERS)
    return f"With plain transformers{f' (which {note})' if note else ''}:\n\n{code}"


def _front_matter(description: Mapping[str, object]) -> str:
    lines = ["---"]
    license_name = str(description.get("base_license") or "").strip().lower()
    if license_name:
        lines.append(f"license: {_yaml(license_name) if LICENSE_ID.fullmatch(license_name) else 'other'}")
    base = str(description.get("base_model") or "")
    if HUB_ID.fullmatch(base):
        lines.append(f"base_model: {_yaml(base)}")
    tag = _yaml(_own(description, "pipeline_tag", "text-classification"))
    lines += ["library_name: transformers", f"pipeline_tag: {tag}", "tags:", "- reward-model", "- assay", "---"]
    return "\n".join(lines)


def _yaml(text: str) -> str:
    """A text as a YAML scalar: plain when nobody could read it as anything else, else quoted as in JSON."""
    is_plain = re.fullmatch(r"[A-Za-z][\w./-]*", text, re.ASCII) and text.lower() not in {
        "true",
        "false",
        "null",
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
    }
    return text if is_plain else json.dumps(visible(text))


def _what(description: Mapping[str, object]) -> str:
    params = description.get("params")
    trained = PARAMS.get(str(params)) or (
        f"the last {_md(str(params)[7:])} blocks and the head" if str(params).startswith("blocks:") else _said(params)
    )
    length = description.get("max_length")
    rows = {
        "kind": _said(description.get("kind")),
        "members": _members(_mapping(description.get("ensemble"))),
        "std": _posterior(_mapping(description.get("posterior"))),
        "base model": _said(description.get("base_model")),
        "base revision": _code(description.get("base_revision")),
        "base license": _said(description.get("base_license")),
        "about the base": _said(description.get("base_note")) if description.get("base_note") else None,
        "objective": _said(description.get("objective")),
        "trained weights": trained,
        "longest input": f"{_said(length)} tokens" if is_real(length) else _said(length),
        "longer inputs": _said(description.get("overlong")),
        "steps": _steps(_mapping(description.get("steps"))),
        "dtype": _said(description.get("dtype")),
    }
    lead = _own(description, "lead", LEAD)
    return f"{lead}\n\n{_table(('', ''), [(name, value) for name, value in rows.items() if value is not None], is_markdown=True)}"


def _steps(reading: Mapping[str, object]) -> str | None:
    """How a model that reads steps reads a solution; None for another."""
    if not reading:
        return None
    scale, shift = (float(str(reading.get(name, usual))) for name, usual in (("scale", 1), ("shift", 0)))
    sure = f"P(right) = sigmoid({scale:.4g} x log-odds {shift:+.4g})"
    return f"cut by {_said(reading.get('rule'))} where none are given; {sure}; reduced by {_said(reading.get('reduction'))}"


def _posterior(posterior: Mapping[str, object]) -> str | None:
    """Where the std of one model's rewards comes from; None for a model without."""
    if not posterior:
        return None
    prior, reference = posterior.get("prior"), _md(posterior.get("reference"))
    of = f"prior precision {float(str(prior)):.3g} by {_said(posterior.get('prior_by'))}, {_said(posterior.get('num_pairs'))} pairs"
    return f"of a reward less that of the answer “{reference}”, by a Laplace posterior of the head ({of})"


def _members(ensemble: Mapping[str, object]) -> str | None:
    """How an ensemble's members become one reward; None for a single model."""
    if not ensemble:
        return None
    share = {"heads": "heads on one backbone", "blocks": "their own last blocks over one trunk", "models": "nothing shared"}
    ways = {"min": "the lowest", "robust": f"-b log mean exp(-r / b), b {_said(ensemble.get('beta'))}"}
    way = ways.get(str(ensemble.get("combine")), f"mean less {_said(ensemble.get('penalty'))} x standard deviation")
    return f"{_said(ensemble.get('members'))}, {share.get(str(ensemble.get('form')), 'form not recorded')}; {way}"


def _training_data(description: Mapping[str, object]) -> str:
    parts = [f"**{_md(description['data_note'])}**"] if description.get("data_note") else []
    sources = description.get("data")
    rows = [_source(source) for source in sources] if isinstance(sources, Sequence) and not isinstance(sources, str) else []
    heads = ("source", _md(description.get("rows") or "pairs"), "fingerprint", "note")
    parts.append(_table(heads, rows, is_markdown=True) if rows else f"Sources: {NOT_RECORDED}.")
    splits = _mapping(description.get("splits"))
    split_rows = [_source({"name": name, **_mapping(split)})[:3] for name, split in splits.items()]
    parts.append(_table(("split", *heads[1:3]), split_rows, is_markdown=True) if split_rows else f"Splits: {NOT_RECORDED}.")
    return "\n\n".join(parts)


def _source(source: object) -> tuple[str, str, str, str]:
    fields = _mapping(source) or {"name": source}
    note = _md(fields["note"]) if fields.get("note") else ""
    count = fields.get("num_pairs")
    return _said(fields.get("name")), number(count) if is_real(count) else _said(count), _code(fields.get("fingerprint")), note


def _settings(description: Mapping[str, object]) -> str:
    rows = []
    for name, setting in _mapping(description.get("settings")).items():
        fields = _mapping(setting)
        value, reason = (fields.get("value"), fields.get("reason")) if "value" in fields else (setting, None)
        rows.append((_md(name), _said(value), _md(reason) if reason else ""))
    return _table(("setting", "value", "reason"), rows, is_markdown=True) if rows else f"Settings: {NOT_RECORDED}."


def _evaluation(reports: Sequence[Report]) -> str:
    parts = []
    for report in reports:
        facts = " · ".join(f"{_md(name)}: {_md(fact)}" for name, fact in report.facts.items())
        blocks = [f"### {_md(report.title)}", facts, _metrics(report.metrics) if report.metrics else ""]
        blocks += [_figures(table) for table in report.tables if table.chart == "none" and {"low", "high"} <= set(table.columns)]
        parts.append("\n\n".join(block for block in blocks if block))
    return "\n\n".join(parts) if parts else f"Evaluation: {NOT_RECORDED}."


def _metrics(metrics: Iterable[Metric]) -> str:
    rows = []
    for metric in metrics:
        decimals = places([metric.value, metric.low, metric.high])
        value = "could not be computed" if math.isnan(metric.value) else number(metric.value, decimals)
        ends = [number(end, decimals) for end in (metric.low, metric.high)]
        interval = "none" if math.isnan(metric.low) and math.isnan(metric.high) else f"{ends[0]} to {ends[1]}"
        scored = f"{metric.n_scored:,} / {metric.n:,}" if metric.n or metric.n_scored else "not stated"
        rows.append((metric.name, value, interval, scored, metric.note))
    return _table(("metric", "value", "interval", "scored / all", "note"), rows)


def _figures(table: Table) -> str:
    """A table of figures with intervals, such as slices or a comparison."""
    decimals = [places(row[c] for row in table.rows if c < len(row)) for c in range(len(table.columns))]
    rows = [
        [number(cell, decimals[c]) if is_real(cell) else "n/a" if cell is None else cell for c, cell in enumerate(row)]
        for row in table.rows
    ]
    note = f"\n\n{_md(table.note)}" if table.note else ""
    return f"#### {_md(table.title)}\n\n{_table(table.columns, rows)}{note}"


def _calibration(calibration: object) -> str:
    fields = {str(name): value for name, value in _mapping(calibration).items() if value != ""}
    if not fields:
        return "Not calibrated, or not recorded: do not read sigmoid(margin) as a probability."
    before, after = _mapping(fields.pop("before", None)), _mapping(fields.pop("after", None))
    measures = {str(name): (value, after.get(name)) for name, value in before.items()} | {
        str(n): (before.get(n), v) for n, v in after.items()
    }
    for name in [name for name in fields if name.endswith("_before") and f"{name[:-7]}_after" in fields]:
        measures[name[:-7]] = (fields.pop(name), fields.pop(f"{name[:-7]}_after"))
    order = sorted(fields, key=lambda name: (name not in ("temperature", "split"), name != "temperature"))
    parts = [_pairs({name: fields[name] for name in order}, "calibration", "value")] if fields else []
    if measures:
        rows = [(_md(name), _said(old), _said(new)) for name, (old, new) in measures.items()]
        parts.append(_table(("measure", "before", "after"), rows, is_markdown=True))
    return "\n\n".join(parts)


def _limits(description: Mapping[str, object], reports: Sequence[Report]) -> str:
    findings = [finding for report in reports for finding in report.findings]
    lines = [_finding(finding) for level in ("fail", "warn") for finding in findings if finding.level == level]
    lines += [
        f"{_md(metric.name)}: {_sentence(f'could not be computed; {metric.note}' if metric.note else 'could not be computed')}"
        for report in reports
        for metric in report.metrics
        if math.isnan(metric.value)
    ]
    if description.get("data_note"):
        lines.append(f"The training data: {_sentence(description['data_note'])}")
    if description.get("base_note"):
        lines.append(f"The base model: {_sentence(description['base_note'])}")
    if is_real(description.get("max_length")):
        lines.append(f"Inputs beyond {_said(description['max_length'])} tokens: {_said(description.get('overlong'))}.")
    if not findings:
        lines.append("No checks were recorded: nothing here says that the model can be trusted.")
    lines.append(_own(description, "comparing", COMPARING))
    passed = [_finding(finding) for finding in findings if finding.level == "ok"]
    limits = "\n".join(f"- {line}" for line in lines)
    return limits + ("\n\nChecks that it passed:\n\n" + "\n".join(f"- {line}" for line in passed) if passed else "")


def _finding(finding: Finding) -> str:
    seen = "could not be computed" if math.isnan(finding.value) else number(finding.value)
    held = "" if math.isnan(finding.threshold) else f", threshold {number(finding.threshold)}"
    return f"**{finding.level.upper()}: {_md(finding.name)}** ({seen}{held}). {_md(finding.why)}"


def _pairs(mapping: Mapping[str, object], name: str, value: str) -> str:
    rows = [(_md(key), _said(entry)) for key, entry in mapping.items()]
    return _table((name, value), rows, is_markdown=True) if rows else f"{name.capitalize()}: {NOT_RECORDED}."


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], is_markdown: bool = False) -> str:
    """A Markdown table; cells are escaped unless they are Markdown already."""
    lines = [[_md(head) for head in heads], ["---"] * len(heads)]
    lines += [[str(cell) if is_markdown else _md(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _said(value: object) -> str:
    """A value of the description as Markdown, or that it was not recorded."""
    if value is None or value == "":
        return NOT_RECORDED
    if is_real(value):
        is_large = isinstance(value, Integral) and abs(value) >= 10_000
        return "could not be computed" if math.isnan(value) else f"{value:,}" if is_large else f"{value:.6g}"
    if isinstance(value, list | tuple) and len(value) > MAX_LISTED and all(is_real(entry) for entry in value):
        return f"{len(value)} numbers, {min(value):.4g} to {max(value):.4g}"
    if isinstance(value, Mapping | list | tuple):
        return _md(json.dumps(value, ensure_ascii=False, default=str))
    return _md(value)


def _code(value: object) -> str:
    """An identifier in backticks when it is one, escaped text when it is not."""
    return f"`{value}`" if isinstance(value, str) and re.fullmatch(r"[\w.:/-]+", value, re.ASCII) else _said(value)


def _md(text: object) -> str:
    """A text on one line in which nothing is Markdown or HTML: no pipe, heading, link, code or tag of its own."""
    line = " ".join(visible(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)
    line = re.sub(r"^([#=]|[-+](?=[\s-]|$))", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def _sentence(text: object) -> str:
    return _md(text).rstrip(".") + "."


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
