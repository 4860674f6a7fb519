"""Results as plain data: figures in full, tensors by digest and, where they are small, by value. And: are two equal?"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Method
from pellucid.engine.target import margin, unit

SMALL = 4096  # numbers of a tensor that are kept; of larger ones, so many are kept that are evenly spaced
SPACED = 256
KEPT_APART = (
    *("method", "settings", "target", "layer", "seed", "memory", "model", "model_hash", "input_hash", "path", "rows"),
    *("dtype", "device", "versions", "seconds"),
)


def figure(value: float) -> float | str:
    """A number, or the name of what JSON has no number for."""
    return value if math.isfinite(value) else repr(value)


def tensor(x: Tensor, *, values: bool = True) -> dict[str, Any]:
    """A tensor's shape, type and digest; its values where it is small, else some of them and its size.

    The digest is over shape, type and every bit. With `values=False` there is no value: the tensor holds someone's row.
    """
    x = x.detach().cpu().contiguous()
    seal = hashlib.blake2b(f"{tuple(x.shape)}{x.dtype}".encode(), digest_size=16)
    seal.update(x.flatten().view(torch.uint8).numpy().tobytes())
    kind = str(x.dtype).removeprefix("torch.")
    told: dict[str, Any] = {"shape": list(x.shape), "type": kind, "digest": seal.hexdigest()}
    if not values or x.is_complex():
        return {"tensor": told}
    flat = x.flatten()
    if flat.is_floating_point():
        flat = flat.double()
        told["largest"] = figure(float(flat.abs().max())) if len(flat) else 0.0
    if len(flat) > SMALL:
        told["every"] = step = -(-len(flat) // SPACED)
        told["size"] = figure(float(flat.double().norm()))
        flat = flat[::step]
    told["values"] = [figure(v) if isinstance(v, float) else v for v in flat.tolist()]
    return {"tensor": told}


def plain(value: Any, *, values: bool = True) -> Any:
    """Anything a result holds, as plain data without addresses or places on this machine."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Tensor):
        return tensor(value, values=values)
    if isinstance(value, Method):
        return plain(value.config())
    if isinstance(value, Mapping):
        return {str(plain(str(k))): plain(v, values=values) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v, values=values) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), values=values) for f in dataclasses.fields(value)}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain(value.item())
    if hasattr(value, "__array__"):
        return plain(torch.as_tensor(value), values=values)
    return {"other": type(value).__name__}


def asked_for(target: Any) -> Any:
    """A target as plain data; what can't be told in data is named as such."""
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return target
    if isinstance(target, margin):
        return {"margin": [target.towards, target.against]}
    if isinstance(target, unit):
        index = target.index if isinstance(target.index, int) else list(target.index)
        return {"unit": [target.place, index, target.reduce]}
    if callable(target) and not isinstance(target, Tensor):
        return {"other": type(target).__name__}
    return {"classes": torch.as_tensor(target).flatten().tolist()}


def target_of(value: Any) -> Any:
    """The target that `asked_for` told of; a `ValueError` where it told of none."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    kind, content = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
    content = content if isinstance(content, list) else []
    whole = bool(content) and all(type(v) is int for v in content)
    if kind == "margin" and whole and len(content) == 2:
        return margin(*content)
    if kind == "classes" and whole:
        return torch.tensor(content)
    if kind == "unit" and len(content) == 3 and isinstance(content[0], str):
        index = tuple(content[1]) if isinstance(content[1], list) else content[1]
        return unit(content[0], index, str(content[2]))
    raise ValueError("a function, which no record can hold")


@dataclass(frozen=True)
class Difference:
    """Where two pieces of plain data differ, and `by` how much: as a share of a tensor's largest figure.

    Single figures and facts below 1 are compared with 1: an error near 0 has no digits of its own.
    """

    place: str
    by: float = math.inf


def differences(old: Any, new: Any, place: str = "") -> Iterator[Difference]:
    """All places where they differ by so much as a bit; texts and whole numbers differ or don't."""
    if isinstance(old, dict) and isinstance(new, dict):
        if "tensor" in old and "tensor" in new and isinstance(old["tensor"], dict):
            yield from _tensors(old["tensor"], new["tensor"], place)
            return
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                yield Difference(f"{place}/{name}")
            elif name == "digest":  # of figures that are compared one by one
                yield from [Difference(f"{place}/{name}", 0.0)] if old[name] != new[name] else []
            else:
                yield from differences(old[name], new[name], f"{place}/{name}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield Difference(place)
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from differences(a, b, f"{place}/{i}")
    elif isinstance(old, float) and isinstance(new, float):
        if old != new:
            yield Difference(place, abs(old - new) / max(abs(old), abs(new), 1.0))
    elif type(old) is not type(new) or old != new:
        yield Difference(place)


def _tensors(old: Any, new: Any, place: str) -> Iterator[Difference]:
    if old == new:
        return
    alike = all(old.get(k) == new.get(k) for k in ("shape", "type", "every"))
    a, b = (_numbers(side.get("values")) for side in (old, new))
    if not alike or not a or len(a) != len(b) or not str(old.get("type")).startswith(("float", "bfloat")):
        yield Difference(place)
        return
    scale = max((abs(v) for v in [*a, *b] if math.isfinite(v)), default=0.0)
    scale = max(scale, 1.0) if "/facts/" in place else scale
    gaps = [abs(x - y) for x, y in zip(a, b, strict=True) if x != y and not (math.isnan(x) and math.isnan(y))]
    sizes = _numbers([old.get("size", 0.0), new.get("size", 0.0)])
    gap = max((g for g in gaps if math.isfinite(g)), default=0.0)
    broken = any(not math.isfinite(g) for g in gaps)
    whole = abs(sizes[0] - sizes[1]) / (max(sizes) or 1.0) if len(sizes) == 2 else math.inf
    yield Difference(place, math.inf if broken else max(gap / scale if scale else 0.0, whole))


def _numbers(values: Any) -> list[float]:
    """Numbers that JSON may spell as words; none where there is anything else."""
    if not isinstance(values, list):
        return []
    words = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    known = [words.get(v) if isinstance(v, str) else v for v in values]
    return [] if any(not isinstance(v, int | float) for v in known) else [float(v) for v in known if v is not None]
