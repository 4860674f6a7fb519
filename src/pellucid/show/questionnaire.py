"""A study on one page: it shows, asks, times and saves answers as a file, without server, network or storage."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from pellucid.contract import Context, Explanation
from pellucid.contract.errors import InputError
from pellucid.show import draw, pages, palette
from pellucid.show.options import Options
from pellucid.show.select import only
from pellucid.show.words import clean

BLIND = ("method", "of")  # entries of a result's source from which a figure would name its method
LARGEST = 200 << 20
SLICE, GAP = 200, 8  # pixels
BOX = (0, 158, 115)  # green, unlike both colours of maps


def page(public: dict[str, Any], language: str = "en") -> str:
    """The page of a study's public description: see `pellucid.evaluation.Study.export`."""
    body = pages.render(
        "questionnaire.html",
        title=public["title"],
        intro=public["intro"],
        warnings=public["warnings"],
        participants=len(public["plan"]),
        screens=max(map(len, public["plan"])),
        seal=public["seal"],
        study=public["study"],
        data=data(public),
    )
    made = pages.document(
        public["title"], body, language=language, style="questionnaire.css", script="questionnaire.js"
    )
    if len(made) > LARGEST:
        raise InputError(
            f"The page must be at most {LARGEST >> 20} MB",
            got=f"{len(made) >> 20} MB",
            hint="fewer or smaller pictures",
        )
    return made


def data(value: Any) -> Markup:
    """Plain data as JSON that no HTML parser takes for anything else, with characters that hide text made visible."""
    text = json.dumps(_visible(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _visible(value: Any, name: str = "") -> Any:
    if isinstance(value, str):
        return value if value.startswith("data:image/png;base64,") and name else clean(value, 4000)
    if isinstance(value, dict):
        return {k: _visible(v, k) for k, v in value.items()}
    return [_visible(v) for v in value] if isinstance(value, list | tuple) else value


def picture(result: Explanation, row: int, *, answer: bool = False) -> str:
    """One row of a result as a PNG address, without the method's name, nor, unless `answer`, what the network answered."""
    from pellucid.show import viewer

    one = only(result, row)
    if one.form == result.form and _rows(result) is not None and row >= (_rows(result) or 0):
        raise InputError(f"The 'row' must be below {_rows(result)}", got=str(row))
    kept = one.context
    if not answer:
        kept = Context(inputs=kept.inputs, features=kept.features)
    changes: dict[str, Any] = {"context": kept, "source": {k: v for k, v in one.source.items() if k not in BLIND}}
    if not answer and one.form == "attribution":
        changes["target"] = None
    blind = one.replace(**changes)
    figure = viewer(blind).figure(blind, replace(Options(), headed=False))
    return palette.data_uri(draw.as_png(figure))


def _rows(result: Explanation) -> int | None:
    from pellucid.contract import tensors

    values = getattr(result, "values", None) if result.form == "attribution" else getattr(result, "items", None)
    held = [] if values is None else tensors(values)
    return int(held[0].shape[0]) if held and held[0].dim() else None


def slices(rows: list[tuple[Any, Any, tuple[int, int, int, int] | None]], limit: float) -> str:
    """Slices of volumes as one PNG address: each row a scan from 0 to 1, and beside it its map over it, with a box drawn.

    A row is (scan (height, width), map of the same shape, box of first and last row and column or None); `limit` is the
    value of full colour.
    """
    drawn = []
    by = palette.Scale(limit, 0, 100.0)
    for scan, heat, box in rows:
        grey = np.repeat(np.clip(np.asarray(scan, float), 0, 1)[..., None] * 255, 3, -1).astype(np.uint8)
        pair = [_enlarged(p, box) for p in (grey, palette.over(grey, torch.as_tensor(heat), by, strength=1.0))]
        drawn.append(np.concatenate([pair[0], np.full((len(pair[0]), GAP, 3), 255, np.uint8), pair[1]], 1))
        drawn.append(np.full((GAP, drawn[-1].shape[1], 3), 255, np.uint8))
    return palette.data_uri(palette.png(np.concatenate(drawn[:-1])))


def _enlarged(pixels: np.ndarray, box: tuple[int, int, int, int] | None) -> np.ndarray:
    step = max(1, -(-SLICE // max(pixels.shape[:2])))
    large = pixels.repeat(step, 0).repeat(step, 1)
    if box is not None:
        top, bottom, left, right = box[0] * step, (box[1] + 1) * step - 1, box[2] * step, (box[3] + 1) * step - 1
        for edge in range(max(1, step // 6)):
            large[[top + edge, bottom - edge], left : right + 1] = BOX
            large[top : bottom + 1, [left + edge, right - edge]] = BOX
    return large
