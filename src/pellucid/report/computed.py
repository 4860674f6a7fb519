"""What a record holds of a question and of what was computed, as plain data; and where it was computed."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import torch

import pellucid
from pellucid.contract import Examples, Explanation, Semantics
from pellucid.contract.method import as_method, from_config
from pellucid.engine.data import as_rows
from pellucid.report.case import Case
from pellucid.report.dossier import Dossier, Question
from pellucid.report.plain import KEPT_APART, asked_for, plain, tensor
from pellucid.report.record import digest
from pellucid.show.answer import Answer
from pellucid.show.words import placeless

NAMED = ("model", "input", "data")


def asked(dossier: Dossier, named: Mapping[str, str], names: Any, *, keep_inputs: bool) -> dict[str, Any]:
    """The question: model, rows and data by digest (and by name, where a command line has one), methods, target, seed."""
    put, subject = dossier.question, dossier.subject
    rows, module = put.rows, subject.module
    inputs: dict[str, Any] = {
        "name": _text(named.get("input")),
        "hash": rows.fingerprint(),
        "rows": rows.rows,
        "names": [_text(name) for name in names or rows.names],
        "single": rows.single,
    }
    if keep_inputs:
        parts = zip(rows.names or map(str, range(len(rows.tensors))), rows.tensors, strict=True)
        inputs["values"] = {name: whole(x) for name, x in parts}
    return {
        "model": {
            "name": _text(named.get("model")),
            "kind": type(module or subject.model).__name__,
            "hash": subject.state_hash(),
            "classes": plain(subject.classes),
            "features": plain(subject.features),
        },
        "inputs": inputs,
        "data": data_of(put, named),
        "parts": {str(plain(name)): tensor(mask, values=False)["tensor"]["digest"] for name, mask in put.parts.items()},
        "labels": list(put.truths),
        "target": asked_for(put.target),
        "methods": [_method(m) for m in put.methods],
        "seed": put.seed,
        "audience": put.audience,
        "private": put.private,
        "ink": put.ink,
    }


def whole(x: torch.Tensor) -> dict[str, Any]:
    """A tensor with all its values, however large."""
    told = tensor(x)["tensor"]
    if "every" in told:
        told = {k: v for k, v in told.items() if k not in ("every", "size")}
        told["values"] = plain(x.detach().cpu().flatten().tolist())
    return {"tensor": told}


def _text(value: object) -> str | None:
    return None if value is None else str(plain(placeless(value)))


def data_of(put: Question, named: Mapping[str, str]) -> dict[str, Any] | None:
    if put.data is None:
        return None
    try:
        rows = as_rows(put.data)
    except (TypeError, ValueError):  # several sets, as methods of concepts take them
        return {"name": _text(named.get("data")), "hash": None, "rows": None, "labels": None}
    labels = None if rows.labels is None else tensor(rows.labels, values=False)["tensor"]["digest"]
    return {
        "name": _text(named.get("data")),
        "hash": rows.inputs.fingerprint(),
        "rows": rows.inputs.rows,
        "labels": labels,
    }


def _method(given: Any) -> dict[str, Any]:
    """A method as the caller gave it: by name where it has the defaults, by its settings otherwise."""
    try:
        return dict(plain(as_method(given).config()))
    except Exception:
        return {"method": str(plain(str(given)))[:200]}


def computed(dossier: Dossier, told: Mapping[str, list[str]]) -> dict[str, Any]:
    """Everything that was computed, without times."""
    return {
        "outputs": plain(dossier.output),
        "results": [result(r, private=dossier.question.private) for r in dossier.found.results],
        "cases": [_case(c) for c in dossier.cases],
        "missing": [[str(plain(name)), str(plain(why))] for name, why in dossier.found.missing],
        "statements": {place: list(texts) for place, texts in told.items()},
    }


def result(found: Explanation, *, private: bool = False) -> dict[str, Any]:
    """One result: method, question, facts, every field; a digest over what was computed.

    Rows of the data that a result shows are kept by digest alone; with `private`, so is a `baseline`.
    """
    hidden = {"context", "facts", "source", *(("rows",) if isinstance(found, Examples) else ())}
    hidden |= {"images"} if isinstance(found, Semantics) else set()
    hidden |= {"baseline"} if private else set()
    names = [f.name for f in dataclasses.fields(found) if f.name not in ("context", "facts", "source")]
    fields = {name: plain(getattr(found, name), values=name not in hidden) for name in names}
    config = {"method": str(found.source.get("method")), **dict(found.source.get("settings", {}))}
    config = {k: {"other": "function"} if isinstance(v, str) and " at 0x" in v else v for k, v in config.items()}
    made = {
        "facts": {k: plain(v) for k, v in found.facts.items()},
        "fields": fields,
        "source": plain({k: v for k, v in found.source.items() if k not in KEPT_APART}),
    }
    return {
        "method": config["method"],
        "settings": plain({k: v for k, v in config.items() if k != "method"}),
        "rebuilds": rebuilds(config),
        "form": found.form,
        "target": plain(found.source.get("target")),
        "layer": found.source.get("layer"),
        "claims": list(_claims(config)),
        **made,
        "digest": digest(made),
    }


def rebuilds(config: Mapping[str, Any]) -> bool:
    """Whether the plain data of a method's settings make the same method again."""
    try:
        return bool(plain(from_config(plain(config)).config()) == plain(config))
    except Exception:
        return False


def _claims(config: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return from_config(plain(config)).claims
    except Exception:
        return ()


def _case(case: Case) -> dict[str, Any]:
    """What was computed of a row beside the results: the answer, and the map and check behind "why"."""
    told: dict[str, Any] = {
        "answer": _answer(case.answer),
        "truth": case.truth or None,
        "right": case.right,
        "why": None,
    }
    if case.reason is not None:
        found = case.reason
        told["why"] = {
            "towards": found.towards,
            "against": found.against,
            "result": result(found.result),
            "erasure": plain(found.erasure, values=False) if found.erasure is not None else None,
        }
    return {**told, **{name: plain(value) for name, value in case.more.items()}}


def _answer(answer: Answer) -> dict[str, Any]:
    told = plain(answer)
    told["lead"] = None
    if answer.share is not None and answer.second_share is not None:
        told["lead"] = answer.share - answer.second_share
    return dict(told)


def environment(device: str) -> dict[str, Any]:
    """What has to be equal for figures to be equal bit for bit. It says nothing of where or whose the machine is."""
    return {
        "pellucid": pellucid.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
