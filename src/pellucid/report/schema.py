"""What a record must look like: a JSON Schema, and a reader of the few of its words that are used here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

NAME, VERSION = "pellucid-decision-record", 1
LONGEST = 4000
_KINDS: dict[str, type] = {
    "object": dict,
    "array": list,
    "string": str,
    "null": type(None),
    "boolean": bool,
    "integer": int,
}

_TEXT = {"type": "string"}
_HASH = {"type": "string", "maxLength": 128}
_WORDS = {"type": ["string", "null"], "maxLength": LONGEST}
_COUNT = {"type": "integer"}
_OPEN = {"type": "object"}


def _object(optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_RESULT = _object(
    method=_TEXT,
    settings=_OPEN,
    rebuilds={"type": "boolean"},
    form=_TEXT,
    target={},
    layer={"type": ["string", "null"]},
    facts=_OPEN,
    fields=_OPEN,
    source=_OPEN,
    claims=_list(_TEXT),
    digest=_HASH,
)
_ASKED = _object(
    model=_object(name=_WORDS, kind=_TEXT, hash=_HASH, classes=_list(_TEXT), features=_list(_TEXT)),
    inputs=_object(
        ("values",), name=_WORDS, hash=_HASH, rows=_COUNT, names=_list(_TEXT), single={"type": "boolean"}, values={}
    ),
    data={"type": ["object", "null"]},
    parts=_OPEN,
    labels=_list({"type": ["integer", "null"]}),
    target={},
    methods=_list(_OPEN),
    seed=_COUNT,
    audience={"enum": ["layperson", "engineer", "auditor"]},
    private={"type": "boolean"},
    ink={"type": "boolean"},
)
_OVERRIDE = _object(case=_COUNT, who=_TEXT, when=_TEXT, decision=_TEXT, reason=_TEXT, previous=_HASH, digest=_HASH)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A decision on record",
    **_object(
        schema={"const": NAME},
        version={"const": VERSION},
        asked=_ASKED,
        computed=_object(
            outputs=_OPEN,
            results=_list(_RESULT),
            cases=_list(_OPEN),
            missing=_list(_list(_TEXT)),
            statements=_OPEN,
        ),
        issued=_object(
            id=_HASH,
            when=_TEXT,
            title=_TEXT,
            responsible=_WORDS,
            contest=_WORDS,
            environment=_OPEN,
            seconds=_list({"type": "number"}),
        ),
        digests=_object(asked=_HASH, computed=_HASH, issued=_HASH, record=_HASH),
        overrides=_list(_OVERRIDE),
    ),
}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record, for readers in other languages."""
    return copy.deepcopy(SCHEMA)


def problem(value: Any, wanted: Mapping[str, Any] = SCHEMA, place: str = "") -> str:
    """The first thing about a value that is not as the schema wants it, or empty text."""
    where = place or "the whole"
    if "const" in wanted and value != wanted["const"]:
        return f"{where} must be {wanted['const']!r}"
    if "enum" in wanted and value not in wanted["enum"]:
        return f"{where} must be one of {wanted['enum']}"
    kinds = wanted.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} must be of type {' or '.join(kinds)}"
    if isinstance(value, str) and len(value) > wanted.get("maxLength", len(value)):
        return f"{where} is too long"
    if isinstance(value, list) and "items" in wanted:
        found = (problem(v, wanted["items"], f"{place}/{i}") for i, v in enumerate(value))
        return next(filter(None, found), "")
    return _in_object(value, wanted, place) if isinstance(value, dict) and "properties" in wanted else ""


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, _KINDS[kind]) and not (kind == "integer" and isinstance(value, bool))


def _in_object(value: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> str:
    for name in wanted.get("required", ()):
        if name not in value:
            return f"{place}/{name} is missing"
    for name, part in value.items():
        if name not in wanted["properties"]:
            return f"{place}/{name} is not known"
        if found := problem(part, wanted["properties"][name], f"{place}/{name}"):
            return found
    return ""
