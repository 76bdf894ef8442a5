"""Rubrics of other programs, each with the formula that it has there; and HealthBench's form to write.

    HealthBench          [{criterion, points, tags}], alone or as `rubrics` of a row           points
    Rubrics as Rewards   [{title, description, weight}], alone or as `rubric` of a row         mean
    autorubric           [{requirement, weight, name, options}], also under rubric, sections   clipped
    verifiers v1         {criteria: [{name, text, weight, choices}]}                           mean
    Harbor RewardKit     [judge], [[criterion]] with `description`, [scoring]                  what [scoring] says

Sources: openai/simple-evals healthbench_eval.py; arXiv 2507.17746, eq. 1; autorubric 1.6.1 scoring.py; verifiers
v1/judges/rubric.py; harbor-rewardkit 0.2.3 reward.py and models.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from assay.rubrics.formulas import Formula
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import NOT_APPLICABLE, Choice, Criterion, Rubric

CATEGORY_WEIGHTS: Mapping[str, float] = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}
"""Weights of Rubrics as Rewards' explicit reward, by the word that a description begins with; pitfalls are worded as avoided."""

_CATEGORY = re.compile(r"\s*(essential|important|optional|pitfall) criteri(?:a|on)\s*:", re.IGNORECASE)
_Item = Mapping[str, Any]


def rubric_of_form(content: Any, name: str = "") -> Rubric | None:
    """The rubric that parsed JSON or TOML of another program holds, None where it is of none of their forms.

    Raises ValueError for a form that is known and content that does not fit it.
    """
    if isinstance(content, Mapping) and _is_rewardkit(content):
        return _rewardkit(content, name)
    if isinstance(content, Mapping) and _is_items(content.get("criteria")) and "text" in content["criteria"][0]:
        return _verifiers(content, name)
    items = _items_in(content)
    if not items:
        return None
    for first, read in _FORMS.items():
        if first <= items[0].keys():
            return read(items, name)
    return None


def healthbench(items: Sequence[_Item], name: str = "") -> Rubric:
    """{criterion, points, tags}: the points that are met, by the positive points; an item may be below 0."""
    criteria = [
        Criterion(
            name=f"criterion {i}",
            text=_text(item, "criterion", i),
            weight=_number(item, "points", i),
            tags=tuple(str(tag) for tag in item.get("tags") or ()),
        )
        for i, item in enumerate(_known(items, {"criterion", "points", "tags"}), start=1)
    ]
    return Rubric(criteria=tuple(criteria), name=name, formula="points")


def rubrics_as_rewards(items: Sequence[_Item], name: str = "", *, weights: Literal["given", "categories"] = "given") -> Rubric:
    """{title, description, weight}: met weights by all weights. weights: as given, or `CATEGORY_WEIGHTS` of the descriptions.

    Raises ValueError for weights that sum to 0 or less, and under "categories" for a description without one.
    """
    titles = _unique([_text(item, "title", i) for i, item in enumerate(items, start=1)])
    criteria = []
    for i, (item, title) in enumerate(zip(_known(items, {"title", "description", "weight"}), titles, strict=True), start=1):
        text = _text(item, "description", i)
        weight = _number(item, "weight", i) if weights == "given" else _category_weight(text, i)
        criteria.append(Criterion(name=title, text=text, weight=weight))
    return Rubric(criteria=tuple(criteria), name=name, formula="mean")


def autorubric(items: Sequence[_Item], name: str = "") -> Rubric:
    """{requirement, weight, name, options}: cut to [0, 1]; a weight that is not given is 10, as there."""
    fields = {"requirement", "weight", "name", "options", "scale_type", "aggregation"}
    names = _unique([str(item.get("name") or f"criterion {i}") for i, item in enumerate(_known(items, fields), start=1)])
    criteria = [_autorubric_criterion(item, one, i) for i, (item, one) in enumerate(zip(items, names, strict=True), start=1)]
    return Rubric(criteria=tuple(criteria), name=name, formula="clipped")


def _autorubric_criterion(item: _Item, name: str, i: int) -> Criterion:
    text, weight = _text(item, "requirement", i), _number({"weight": 10.0, **item}, "weight", i)
    options = item.get("options")
    if options is None:  # there a judge may always say that it cannot assess, and the criterion is then left out
        return Criterion(name=name, text=text, weight=weight, not_applicable=NOT_APPLICABLE)
    if not _is_items(options):
        raise ValueError(f"criterion {i}: options are no list of {{label, value, na}}")
    scored = [option for option in options if not option.get("na")]
    left_out = next((str(option.get("label")) for option in options if option.get("na")), NOT_APPLICABLE)
    choices = tuple(Choice(str(option.get("label", "")), _number(option, "value", i)) for option in scored)
    return Criterion(name=name, text=text, weight=weight, kind="choices", choices=choices, not_applicable=left_out)


def _verifiers(content: Mapping[str, Any], name: str) -> Rubric:
    """criteria = [{name, text, weight, choices}], weights not negative, choices evenly spaced from worst to best."""
    criteria = []
    for i, item in enumerate(_known(content["criteria"], {"name", "text", "weight", "choices"}), start=1):
        weight = _number({"weight": 1.0, **item}, "weight", i)
        if weight < 0:
            raise ValueError(f"criterion {i}: weight {weight:g} is negative, which verifiers does not have")
        criterion = Criterion(name=_text(item, "name", i), text=_text(item, "text", i), weight=weight)
        if "choices" in item:
            criterion = replace(criterion, kind="choices", choices=_even(item["choices"], i))
        criteria.append(criterion)
    return Rubric(criteria=tuple(criteria), name=name, formula="mean")


def _is_rewardkit(content: Mapping[str, Any]) -> bool:
    judge, criteria = content.get("judge"), content.get("criterion")
    return (isinstance(judge, Mapping) and "judge" in judge) or (
        _is_items(criteria) and any("description" in c for c in cast(list, criteria))
    )


def _rewardkit(content: Mapping[str, Any], name: str) -> Rubric:
    """Of [judge] model, mode, samples and timeout are kept; files of a workspace are refused. [[criterion]] is read whole."""
    if unknown := content.keys() - {"judge", "criterion", "scoring"}:
        raise ValueError(f"unknown table {sorted(unknown)[0]!r}: RewardKit has [judge], [[criterion]] and [scoring]")
    judge, scoring = content.get("judge", {}), content.get("scoring", {})
    needs_files = {"files", "cwd", "reference", "atif-trajectory", "mcp_servers", "prompt_template", "guard", "isolated"}
    if used := sorted(needs_files & judge.keys()):
        raise ValueError(
            f"[judge] {used[0]} reads files of a workspace, and here a judge sees the prompt and the answer: leave it out"
        )
    ours = {"judge", "model", "samples", "mode", "weight", "timeout", "version", "reasoning_effort"}
    if unknown := judge.keys() - ours:
        raise ValueError(f"[judge]: unknown field {sorted(unknown)[0]!r}")
    if unknown := scoring.keys() - {"aggregation", "threshold"}:
        raise ValueError(f"[scoring]: unknown field {sorted(unknown)[0]!r}")
    formula = _AGGREGATIONS.get(str(scoring.get("aggregation", "weighted-mean")).replace("_", "-"))
    if formula is None:
        raise ValueError(f"[scoring] aggregation {scoring['aggregation']!r} is none of RewardKit's: {', '.join(_AGGREGATIONS)}")
    criteria = tuple(_rewardkit_criterion(item, i) for i, item in enumerate(content.get("criterion", []), start=1))
    if formula != "sum" and any(criterion.weight < 0 for criterion in criteria):
        raise ValueError("a negative weight needs [scoring] aggregation = 'weighted-sum' in RewardKit")
    settings = JudgeSettings(
        backend="endpoint",
        model=str(judge.get("model") or judge.get("judge", "")),
        calls="each" if judge.get("mode") == "individual" else "together",
        deadline=float(judge.get("timeout", 300)),
        k=int(judge.get("samples", 1)),
        temperature=1.0 if judge.get("samples", 1) > 1 else 0.0,
    )
    return Rubric(criteria=criteria, name=name, formula=formula, threshold=float(scoring.get("threshold", 0.5)), judge=settings)


def _rewardkit_criterion(item: _Item, i: int) -> Criterion:
    known = {
        "description",
        "type",
        "name",
        "id",
        "points",
        "levels",
        "min",
        "max",
        "weight",
        "files",
        "negate",
        "optional",
        "annotations",
    }
    _known([item], known)
    if item.get("files"):
        raise ValueError(f"criterion {i}: files of a workspace are not seen here: leave them out")
    text = _text(item, "description", i)
    slug = re.sub(r"[^a-z0-9]+", "_", text[:40].lower()).strip("_")
    plain = Criterion(
        name=str(item.get("name") or slug or f"criterion {i}"),
        text=text,
        weight=_number({"weight": 1.0, **item}, "weight", i),
        negated=bool(item.get("negate", False)),
        is_optional=bool(item.get("optional", False)),
    )
    match item.get("type", "binary"):
        case "binary":
            return plain
        case "likert":
            return replace(plain, kind="scale", low=1.0, high=_number({"points": 5, **item}, "points", i))
        case "numeric":
            low, high = (_number({"min": 0.0, "max": 1.0, **item}, end, i) for end in ("min", "max"))
            return replace(plain, kind="scale", low=low, high=high, whole_numbers=False)
        case "rubric":
            levels = item.get("levels", ())
            choices = [Choice(str(n), n / max(1, len(levels) - 1), str(level)) for n, level in enumerate(levels)]
            return replace(plain, kind="choices", choices=tuple(choices))
    raise ValueError(f"criterion {i}: type {item['type']!r} is none of binary, likert, numeric, rubric")


def to_healthbench(rubric: Rubric) -> list[dict[str, Any]]:
    """The criteria as HealthBench writes them, [{criterion, points, tags}].

    Raises ValueError for what it cannot say: another formula, a criterion that is not yes or no, gates, needs and rules.
    """
    if rubric.formula != "points":
        raise ValueError(f"the formula is {rubric.formula!r}, and HealthBench has points alone")
    for criterion in rubric.criteria:
        beyond = ("gate", "needs", "not_applicable", "negated")
        extra = next((field for field in beyond if getattr(criterion, field)), None)
        if criterion.kind != "binary" or extra:
            what = f"its kind is {criterion.kind!r}" if criterion.kind != "binary" else f"it has {extra}"
            raise ValueError(f"HealthBench cannot say the criterion {criterion.name!r}: {what}, and there is only yes or no there")
    return [
        {"criterion": criterion.text, "points": int(w) if (w := criterion.weight).is_integer() else w, "tags": list(criterion.tags)}
        for criterion in rubric.criteria
    ]


_FORMS: Mapping[frozenset[str], Callable[[Sequence[_Item], str], Rubric]] = {
    frozenset({"criterion", "points"}): healthbench,
    frozenset({"title", "description"}): rubrics_as_rewards,
    frozenset({"requirement"}): autorubric,
}
_AGGREGATIONS: Mapping[str, Formula] = {
    "weighted-mean": "mean",
    "weighted-sum": "sum",
    "all-pass": "all-pass",
    "any-pass": "any-pass",
    "required-pass": "required-pass",
    "threshold": "threshold",
}


def _is_items(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _items_in(content: Any) -> list[_Item]:
    """The criteria of a list, of a row with `rubrics` or `rubric`, or of autorubric's sections; none where there are none."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in ("rubrics", "rubric", "sections") if key in content), None)
        if inner is None:
            return []
        content = inner
    if not _is_items(content):
        return []
    sections = [item["criteria"] if isinstance(item.get("criteria"), list) else [item] for item in content]
    return [item for section in sections for item in section]


def _known(items: Sequence[_Item], known: set[str]) -> Sequence[_Item]:
    for i, item in enumerate(items, start=1):
        if unknown := sorted(item.keys() - known):
            raise ValueError(f"criterion {i}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return items


def _text(item: _Item, field: str, i: int) -> str:
    value = item.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"criterion {i}: {field} is {value!r:.40}: give text")
    return value


def _number(item: _Item, field: str, i: int) -> float:
    value = item.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"criterion {i}: {field} is {value!r:.40}: give a number")
    return float(value)


def _even(labels: Any, i: int) -> tuple[Choice, ...]:
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"criterion {i}: choices are {labels!r:.40}: give at least two labels, from worst to best")
    return tuple(Choice(label, n / (len(labels) - 1)) for n, label in enumerate(labels))


def _category_weight(text: str, i: int) -> float:
    found = _CATEGORY.match(text)
    if found is None:
        raise ValueError(f"criterion {i}: {text[:40]!r} does not begin with Essential, Important, Optional or Pitfall Criteria:")
    return CATEGORY_WEIGHTS[found[1].lower()]


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that were there before."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique
