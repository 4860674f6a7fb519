"""Is a record true? Everything in it is computed again, from methods of the catalogue by their settings, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, PellucidError
from pellucid.contract.method import from_config
from pellucid.engine import Subject, as_subject
from pellucid.engine.inputs import as_inputs
from pellucid.report import plain
from pellucid.report.computed import computed, data_of, environment
from pellucid.report.dossier import Question, compute, named_parts
from pellucid.report.record import altered, read
from pellucid.report.story import tell

VERIFIED, DIFFERS, CANNOT = "verified", "differs", "cannot"
TOLERANCE = 1e-4
KINDS = {
    name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8")
}
KINDS["bool"] = torch.bool


@dataclass(frozen=True)
class Finding:
    """One thing that a record says, and whether it is so: "verified", "differs" or "cannot" be told, and how."""

    what: str
    verdict: str
    how: str = ""


@dataclass(frozen=True)
class Replay:
    """What became of computing a record's figures again."""

    findings: tuple[Finding, ...]
    record: Mapping[str, Any]

    @property
    def verified(self) -> bool:
        """Whether everything is as the record says."""
        return all(f.verdict == VERIFIED for f in self.findings)

    def __str__(self) -> str:
        return "\n".join(f"{f.verdict}: {f.what}{f' ({f.how})' if f.how else ''}" for f in self.findings)


def replay(
    path: str | Path,
    model: Any,
    inputs: Any = None,
    *,
    data: Any = None,
    parts: Mapping[str, Tensor] | None = None,
    tolerance: float | None = None,
    seal: str | None = None,
) -> Replay:
    """Compute everything in a record again, and say what is as it was.

    Nothing in the file is run: methods are those of the catalogue with the recorded settings, and model, inputs and data
    are the caller's, held against the recorded digests. In the recorded environment (versions, device, threads, kind of
    processor) figures must be equal bit for bit; in another one to within `TOLERANCE`, 1e-4, of a tensor's largest value.

    Args:
        path: the record.
        model: the model or Subject that it was made of.
        inputs: the rows; not needed where the record keeps them.
        data: what the methods learnt from, where they did.
        parts: the named regions, where there were any.
        tolerance: demand this in any environment, instead.
        seal: the record's digest as the page shows it.

    Example:
        >>> import torch, tempfile, pellucid as px
        >>> net, x = torch.nn.Linear(3, 2).eval(), torch.ones(1, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = px.report(net, x, ["gradient-x-input"], path=f"{folder}/a.html", record=True)
        ...     px.report.replay(f"{folder}/a.json", net, x).verified
        True
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise InputError("The 'tolerance' must be from 0 to 1", got=repr(tolerance), hint="1e-4")
    record = read(path)
    told = record["asked"]
    subject = as_subject(model)
    first = [*_own(record, seal), _model(subject, told["model"])]
    given = kept(told["inputs"]) if inputs is None else inputs
    first += [_inputs(given, told["inputs"]), *_held(told, data)]
    if told["parts"] or parts:
        first.append(_parts(named_parts(parts, given), told["parts"]))
    if any(f.verdict != VERIFIED for f in first if f.what in ("the model", "the inputs")):
        return Replay((*first, *_none(record, "it needs the same model and inputs")), record)
    try:
        rebuilt, lost = _methods(record)
        again = _again(subject, record, given, data, rebuilt, named_parts(parts, given))
    except (PellucidError, ValueError, TypeError, LookupError, OverflowError, RuntimeError) as error:
        return Replay((*first, *_none(record, " ".join(str(error).split())[:200])), record)
    same = environment(as_inputs(given).device.type)
    exact = tolerance is None and same == record["issued"]["environment"] and same["device"] == "cpu"
    within = 0.0 if exact else TOLERANCE if tolerance is None else tolerance
    return Replay((*first, *_compared(record["computed"], again, lost, within, exact)), record)


def _own(record: Mapping[str, Any], seal: str | None) -> Iterator[Finding]:
    """Whether the file is as it was written."""
    problems = altered(record)
    count = len(record["overrides"])
    trail = f"; {count} override{'s' if count != 1 else ''}, each sealed to the one before" if count else ""
    yield Finding(
        "the record itself", DIFFERS if problems else VERIFIED, "; ".join(problems) or f"its digests hold{trail}"
    )
    if seal is not None:
        same = seal.strip().lower() == record["digests"]["record"]
        yield Finding(
            "the page's digest", VERIFIED if same else DIFFERS, "" if same else "the page is of another record"
        )


def _model(subject: Subject, told: Mapping[str, Any]) -> Finding:
    if not told["hash"]:
        return Finding("the model", VERIFIED, "a function, which has no digest: only its answers can be compared")
    same = subject.state_hash() == told["hash"]
    return Finding(
        "the model", VERIFIED if same else DIFFERS, "equal digest" if same else "its weights have another digest"
    )


def kept(told: Mapping[str, Any]) -> Any:
    """The inputs that a record holds, in the structure in which they were given; `None` where it holds none."""
    values = told.get("values")
    if values is None:
        return None
    try:
        found = {name: _tensor(part["tensor"]) for name, part in values.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError("The record's inputs must be tensors", got=str(error)[:100]) from None
    if told["single"] and len(found) == 1:
        return next(iter(found.values()))
    return tuple(found.values()) if all(name.isdecimal() for name in found) else found


def _tensor(told: Mapping[str, Any]) -> Tensor:
    words = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
    values = [words[v] if isinstance(v, str) else v for v in told["values"]]
    return torch.tensor(values, dtype=KINDS[told["type"]]).reshape([int(n) for n in told["shape"]])


def _inputs(given: Any, told: Mapping[str, Any]) -> Finding:
    if given is None:
        return Finding("the inputs", CANNOT, "the record does not keep them: bring the rows")
    same = as_inputs(given).fingerprint() == told["hash"]
    own = kept(told)
    if same and own is not None and as_inputs(own).fingerprint() != told["hash"]:
        return Finding("the inputs", DIFFERS, "those that the record keeps have another digest")
    return Finding("the inputs", VERIFIED if same else DIFFERS, "equal digest" if same else "they have another digest")


def _held(told: Mapping[str, Any], data: Any) -> Iterator[Finding]:
    wanted = told["data"]
    if wanted is None:
        return
    if data is None:
        yield Finding("the data", CANNOT, "bring the rows that the methods learnt from")
        return
    now = data_of(Question(inputs=torch.zeros(1), methods=(), truths=(), data=data), {}) or {}
    same = all(now.get(k) == wanted.get(k) for k in ("hash", "rows", "labels"))
    how = "equal digest" if wanted.get("hash") else "several sets, which have no digest"
    yield Finding("the data", VERIFIED if same else DIFFERS, how if same else "they have another digest")


def _methods(record: Mapping[str, Any]) -> tuple[list[Any], list[int]]:
    """The methods by their settings, and the numbers of results whose methods can't be made again."""
    results = record["computed"]["results"]
    lost = {r["method"] for r in results if not r["rebuilds"]}
    made: list[Any] = []
    for config in record["asked"]["methods"]:
        name = str(config.get("method"))
        if name in lost:
            continue
        try:
            made.append(from_config(config))
        except (PellucidError, TypeError):
            if any(r["method"] == name for r in results):
                lost.add(name)  # a method of the caller's own, that is not here
            else:
                made.append(name)  # it was not in the catalogue then, and the page says so
    return made, [k for k, r in enumerate(results) if r["method"] in lost]


def _parts(now: Mapping[str, Tensor], told: Mapping[str, str]) -> Finding:
    if not now:
        return Finding("the named parts", CANNOT, "bring their masks")
    same = told == {name: plain.tensor(mask, values=False)["tensor"]["digest"] for name, mask in now.items()}
    return Finding(
        "the named parts", VERIFIED if same else DIFFERS, "equal digests" if same else "they are other masks"
    )


def _again(
    subject: Subject,
    record: Mapping[str, Any],
    inputs: Any,
    data: Any,
    methods: Sequence[Any],
    parts: Mapping[str, Tensor],
) -> dict[str, Any]:
    told = record["asked"]
    try:
        target = plain.target_of(told["target"])
    except (ValueError, TypeError) as error:
        raise InputError(f"The recorded target is {error}") from None
    asked = Question(
        inputs=inputs,
        methods=methods,
        truths=told["labels"],
        target=target,
        data=data,
        seed=told["seed"],
        audience=told["audience"],
        private=told["private"],
        ink=told["ink"],
        parts=parts,
    )
    dossier = compute(subject, asked, lambda done: None)
    said = {name: record["issued"][name] or "" for name in ("title", "responsible", "contest")}
    return computed(dossier, tell(dossier, **said).statements(dossier))


def _compared(
    old: Mapping[str, Any], new: Mapping[str, Any], lost: Sequence[int], within: float, exact: bool
) -> Iterator[Finding]:
    """Each part of what was computed against what is computed now."""
    yield _same("the network's outputs", old["outputs"], new["outputs"], within, exact)
    left = iter(new["results"])
    for k, one in enumerate(old["results"]):
        name = f"result {k + 1}: {one['method']}"
        other = None if k in lost else next(left, None)
        if other is None:
            yield Finding(
                name,
                CANNOT,
                "its method can't be made of plain data here" if k in lost else "it could not be computed again",
            )
        else:
            yield _same(name, one, other, within, exact)
    for k, (one, other) in enumerate(zip(old["cases"], new["cases"], strict=False)):
        yield _same(f"case {k + 1}: answer, why, checks", one, other, within, exact)
    if lost:
        yield Finding("what the page says", CANNOT, "it rests on all results")
        return
    yield _same("what could not be computed", old["missing"], new["missing"], within, exact)
    yield _said(old["statements"], new["statements"], exact)


def _same(what: str, old: Any, new: Any, within: float, exact: bool) -> Finding:
    found = sorted(plain.differences(old, new), key=lambda d: -d.by)
    if not found:
        return Finding(what, VERIFIED, "bit for bit")
    if not exact and found[0].by <= within:
        return Finding(what, VERIFIED, f"within {within:g}: {found[0].by:.1g} at most")
    by = f" by {found[0].by:.1g}" if found[0].by < float("inf") else ""
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Finding(what, DIFFERS, f"at {found[0].place.strip('/') or 'the whole'}{by}{more}")


def _said(old: Mapping[str, Any], new: Mapping[str, Any], exact: bool) -> Finding:
    """Whether the page would say the same; elsewhere the last digits of its figures may be other ones."""
    places = [p for p in old if p != "/issued"]
    same = all(old[p] == new.get(p) for p in places) and set(new) - {"/issued"} == set(places)
    count = sum(len(old[p]) for p in places)
    what = f"what the page says: {count} statements with figures"
    if same:
        return Finding(what, VERIFIED, "word for word")
    first = next((a for p in places for a, b in zip(old[p], new.get(p, [""]), strict=False) if a != b), "their number")
    alike = not exact and all(len(old[p]) == len(new.get(p, [])) for p in places)
    how = f"{'rounded otherwise elsewhere' if alike else 'otherwise'}: {first[:80]}"
    return Finding(what, VERIFIED if alike else DIFFERS, how)


def _none(record: Mapping[str, Any], why: str) -> Iterator[Finding]:
    yield Finding("the network's outputs", CANNOT, why)
    for k, one in enumerate(record["computed"]["results"]):
        yield Finding(f"result {k + 1}: {one['method']}", CANNOT, why)
    for k in range(len(record["computed"]["cases"])):
        yield Finding(f"case {k + 1}: answer, why, checks", CANNOT, why)
