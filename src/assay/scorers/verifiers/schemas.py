"""Whether an answer is JSON that fits a schema. Runs in a worker: the regexes of a schema may run for ever."""

from __future__ import annotations

import json
import re
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from assay.scorers.verifiers.final_answer import without_thought

_FENCED = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


def check_schema(check: dict[str, Any]) -> dict[str, Any]:
    """1 where `text` (the whole of it, or its one fenced block) is JSON that fits `schema`; {"gold": why} for an unusable schema.

    References to other documents are not fetched: a schema that has them cannot be used.
    """
    schema = check["schema"]
    validator = validator_for(schema)
    try:
        validator.check_schema(schema)
    except SchemaError as error:
        return {"gold": f"the schema is not valid: {error.message}"[:300]}
    try:
        found = json_in(check["text"])
    except (ValueError, RecursionError):
        return {"value": 0.0}
    try:
        return {"value": float(validator(schema, registry=Registry()).is_valid(found))}
    except Unresolvable as error:
        return {"gold": f"the schema refers to {error.ref!r}, which it does not hold"}
    except re.error as error:
        return {"gold": f"the schema has a pattern that cannot be compiled: {error}"}


def json_in(text: str) -> Any:
    """The JSON that a text is, or that its one fenced block holds. Raises ValueError for anything else, NaN and infinity too."""
    text = without_thought(text).strip()
    fenced = _FENCED.findall(text)
    return json.loads(fenced[0] if len(fenced) == 1 else text, parse_constant=_refused)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
