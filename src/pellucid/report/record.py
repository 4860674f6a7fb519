"""A decision on record: what was asked, every computed figure on the page, who answers for it, and what people decided.

A record is one JSON file of plain data. Four digests seal it: of what was asked, of what was computed, of how it was
issued, and of all three together; entries of the override trail are chained, each to the one before. A digest finds a
change by whoever doesn't make it anew. For whoever does, `replay` computes the figures again, and the digest that the page
names still has to be the record's.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.contract.storage import as_path, write
from pellucid.report import schema

LARGEST = 64 << 20
SEALED = ("asked", "computed", "issued")


def digest(value: Any) -> str:
    """A hash of plain data: of its JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode("ascii"), digest_size=32).hexdigest()


def now() -> str:
    """The time, in words that sort."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def sealed(asked: Mapping[str, Any], computed: Mapping[str, Any], issued: Mapping[str, Any]) -> dict[str, Any]:
    """A new record of what was asked and computed, and how it was issued."""
    parts: dict[str, Any] = {"asked": dict(asked), "computed": dict(computed), "issued": dict(issued)}
    digests = {name: digest(parts[name]) for name in SEALED}
    return {
        "schema": schema.NAME,
        "version": schema.VERSION,
        **parts,
        "digests": {**digests, "record": digest(digests)},
        "overrides": [],
    }


def altered(record: Mapping[str, Any]) -> list[str]:
    """The parts that are not what they were when they were sealed, in words; none for an untouched record."""
    digests = record["digests"]
    found = [f"{name!r} was changed" for name in SEALED if digest(record[name]) != digests[name]]
    if digest({name: digests[name] for name in SEALED}) != digests["record"]:
        found.append("its digests were changed")
    before = digests["record"]
    for place, entry in enumerate(record["overrides"], 1):
        content = {k: v for k, v in entry.items() if k != "digest"}
        if entry["previous"] != before or digest(content) != entry["digest"]:
            found.append(f"override {place} was changed, or one before it was taken away")
            break
        before = entry["digest"]
    return found


def save(record: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a record whole or not at all."""
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
    return write(path, text.encode("ascii") + b"\n", overwrite=overwrite)


def read(path: str | Path) -> dict[str, Any]:
    """A record, checked against the schema; nothing in it is run. It may still have been altered: see `altered`."""
    path = as_path(path)
    if not path.is_file():
        raise InputError("The 'path' must be a record that `record=` wrote", got=repr(str(path)))
    if path.stat().st_size > LARGEST:
        raise UnsafeFileError(f"A record must be at most {LARGEST >> 20} MiB", got=f"{path.stat().st_size} bytes")
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse, object_pairs_hook=_once)
    except RecursionError:
        raise UnsafeFileError("A record must not be nested so deeply", got=repr(path.name)) from None
    except ValueError as error:
        raise UnsafeFileError("The file must be strict JSON", got=f"{path.name!r}: {error}"[:200]) from None
    if problem := schema.problem(value):
        raise UnsafeFileError("The file must be a record of a report", got=f"{path.name!r}: {problem}"[:200])
    return dict(value)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two entries of one name, two readers may see either."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def override(
    path: str | Path, *, who: str, decision: str, reason: str, case: int = 1, when: str | None = None
) -> dict[str, Any]:
    """Set down that a person decided otherwise than the model. Entries are only ever added, each sealed to the last.

    Args:
        path: the record.
        who: the person who decided.
        decision: what was decided instead.
        reason: why.
        case: which of the record's cases.
        when: the time; now, if none is given.

    Returns:
        The entry.
    """
    path = as_path(path)
    for name, text in (("who", who), ("decision", decision), ("reason", reason)):
        if not isinstance(text, str) or not text.strip() or len(text) > schema.LONGEST:
            raise InputError(f"The '{name}' must be some words", got=repr(text)[:80])
    with _alone(path):
        record = read(path)
        if problems := altered(record):
            raise UnsafeFileError("Only an untouched record can be added to", got="; ".join(problems))
        cases = len(record["computed"]["cases"])
        if isinstance(case, bool) or not isinstance(case, int) or not 1 <= case <= cases:
            raise InputError(f"The 'case' must be from 1 to {cases}", got=repr(case))
        trail = record["overrides"]
        entry = {
            "case": case,
            "who": text_of(who),
            "when": text_of(when or now()),
            "decision": text_of(decision),
            "reason": text_of(reason),
            "previous": trail[-1]["digest"] if trail else record["digests"]["record"],
        }
        entry["digest"] = digest(entry)
        save({**record, "overrides": [*trail, entry]}, path, overwrite=True)
    return entry


def text_of(value: object) -> str:
    """Text that any reader of JSON takes: lone halves of characters are spelt out."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep out others who add to records in this folder, where the system has locks, so that no entry is lost."""
    try:
        import fcntl
    except ImportError:  # another kind of system
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
