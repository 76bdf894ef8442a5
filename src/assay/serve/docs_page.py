"""The page at /docs: every route of the OpenAPI with its fields, as plain HTML. It loads nothing from elsewhere, runs no script."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
summary { cursor: pointer } code, pre { font: 14px/1.45 ui-monospace, monospace; background: #f3f3f0 }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #1b1b1b } code, pre { background: #2a2a2a } a { color: #8ab4f8 }
}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def docs_page(openapi: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    title, version = (html.escape(str(openapi["info"][name])) for name in ("title", "version"))
    by_tag: dict[str, list[str]] = {}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(", ".join(operation.get("tags", ["other"])), []).append(_route(path, method, operation, openapi))
    sections = "".join(f"<h2>{html.escape(tag)}</h2>{''.join(routes)}" for tag, routes in by_tag.items())
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style>'
    link = 'For programs: <a href="openapi.json">openapi.json</a>. Errors: <code>{"error": {"message", "type", "code"}}</code>.'
    body = f"<h1>{title} {version}</h1><p>{link}</p>{sections}"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _route(path: str, method: str, operation: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    about = html.escape(str(operation.get("description") or operation.get("summary") or ""))
    parts = [f"<p>{about}</p>"]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [(one["name"], one.get("schema", {}), one.get("description", ""), one.get("required", False)) for one in parameters]
        parts.append(_table("in the address", rows, openapi))
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for name, schema in _bodies(content.get("schema", {}), openapi):
        required = schema.get("required", [])
        rows = [(key, one, one.get("description", ""), key in required) for key, one in schema.get("properties", {}).items()]
        note = f"<p>{html.escape(schema['description'])}</p>" if schema.get("description") else ""
        parts.append(f"<h3>{html.escape(name)}</h3>{note}{_table('field', rows, openapi)}")
    statuses = ", ".join(
        f"{status} {html.escape(reply.get('description', ''))}" for status, reply in operation["responses"].items()
    )
    parts.append(f"<p>Answers: {statuses}</p>")
    return f"<details><summary><code>{method.upper()} {html.escape(path)}</code> {about}</summary>{''.join(parts)}</details>"


def _table(first: str, rows: list[tuple[str, Mapping[str, Any], str, bool]], openapi: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><td><code>{html.escape(name)}</code>{' (needed)' if needed else ''}</td>"
        f"<td><code>{html.escape(_kind(schema, openapi))}</code></td><td>{html.escape(about)}</td></tr>"
        for name, schema, about, needed in rows
    )
    return f"<table><tr><th>{first}</th><th>kind</th><th></th></tr>{cells}</table>"


def _bodies(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The bodies that a route takes and what they are made of, each with its name, once."""
    waiting, seen = [schema], set()
    while waiting:
        one = waiting.pop(0)
        if "$ref" in one and (name := _name(one)) not in seen:
            seen.add(name)
            found = _resolved(one, openapi)
            yield name, found
            waiting += found.get("properties", {}).values()
        waiting += [*one.get("oneOf", ()), *one.get("anyOf", ()), *([one["items"]] if "items" in one else ())]


def _resolved(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = openapi["components"]["schemas"][_name(schema)]
    return found


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", schema.get("title", "body"))).rpartition("/")[2]


def _kind(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        return _name(schema)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(_kind(one, openapi) for one in several))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), openapi)}"
    return str(schema.get("type", "anything"))
