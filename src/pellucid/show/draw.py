"""Drawing without global state: figures that work without a screen, and text that can't be taken for markup."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from pellucid.show.palette import BLUE, RED, SIGNED, SIZED, Scale, hexadecimal
from pellucid.show.words import drawable, number

FONT = "DejaVu Sans"
INK, FAINT = "#1d2330", "#5c6470"


def canvas(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, with a canvas of its own."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(text: Any) -> Any:
    """Switch off formulas and typesetting in a text object, and fix its font."""
    text.set_parse_math(False)
    text.set_usetex(False)
    text.set_fontfamily(FONT)
    return text


def title(axes: Any, *lines: str, size: float = 9, longest: int = 90) -> None:
    """Lines of a title over axes, at the left; empty ones are left out."""
    text = "\n".join(drawable(line, longest) for line in lines if line)
    plain(axes.set_title(text, fontsize=size, color=INK, loc="left"))


def note(axes: Any, x: float, y: float, text: str, **settings: Any) -> None:
    """Text in axes."""
    longest = settings.pop("longest", 60)
    plain(axes.text(x, y, drawable(text, longest), **{"fontsize": 8, "color": INK, **settings}))


def foot(figure: Figure, text: str) -> None:
    """A line under the whole figure."""
    plain(figure.supxlabel(drawable(text, 400), fontsize=8, color=FAINT, x=0.01, ha="left"))


def head(figure: Figure, wanted: bool, text: str) -> None:
    """A line over the whole figure, where it is wanted."""
    if wanted:
        plain(figure.suptitle(drawable(text, 120), fontsize=11, color=INK, x=0.01, ha="left"))


def bare(axes: Any) -> None:
    """Axes without ticks, with a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#c3c8d0")
        side.set_linewidth(0.8)


def photo(axes: Any, pixels: np.ndarray) -> None:
    """Red, green, blue bytes as they are: small ones with hard pixels."""
    axes.imshow(pixels, interpolation="nearest", aspect="equal")
    bare(axes)


def bar(figure: Figure, axes: Any, by: Scale, unit: str, *, laid_over: bool = False) -> None:
    """The colour bar beside axes, with the unit, marked at both ends and at zero."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    hues: Any = SIGNED if by.signed else SIZED
    if laid_over:
        ends = [hexadecimal(BLUE), "#d8d8d8", hexadecimal(RED)]
        hues = LinearSegmentedColormap.from_list("over", ends if by.signed else ends[1:])
    shades = ScalarMappable(Normalize(by.low, by.limit), hues)
    key = figure.colorbar(shades, ax=axes, fraction=0.05, pad=0.03)
    marks = [0.0] if by.blank else [-by.limit, 0.0, by.limit] if by.signed else [0.0, by.limit]
    key.set_ticks(marks, labels=[number(m, 2) for m in marks])
    key.outline.set_visible(False)
    key.ax.tick_params(labelsize=7, length=2, colors=FAINT)
    for label in key.ax.get_yticklabels():
        plain(label)
    plain(key.ax.yaxis.label)
    key.set_label(drawable(unit), fontsize=7, color=FAINT)


def labels(axis: Any, positions: Sequence[float], names: Sequence[str], **settings: Any) -> None:
    """Tick labels that are plain text."""
    longest = settings.pop("longest", 40)
    axis.set_ticks(positions, labels=[drawable(n, longest) for n in names])
    for label in axis.get_ticklabels():
        plain(label)
        label.set(**{"fontsize": 8, "color": INK, **settings})


def numbers(axis: Any, low: float, high: float, count: int = 5) -> None:
    """A few round marks between `low` and `high`, written without exponent or offset."""
    from matplotlib.ticker import MaxNLocator

    marks = [m for m in MaxNLocator(count).tick_values(low, high) if low <= m <= high]
    axis.set_ticks(marks, labels=[number(0.0 if abs(m) < 1e-12 * (high - low) else m) for m in marks])
    for label in axis.get_ticklabels():
        plain(label)
        label.set(fontsize=8, color=FAINT)


def as_png(figure: Figure, dots: int = 110) -> bytes:
    """The figure as a PNG file without metadata about this machine or its software."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dots, facecolor="white", metadata={"Software": None})
    return _fewer_colours(file.getvalue())


def _fewer_colours(content: bytes) -> bytes:
    """Drawings of few colours with a table of exactly these, which makes the file smaller and changes nothing."""
    with Image.open(io.BytesIO(content)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    packed = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    colours, index = np.unique(packed, return_inverse=True)
    if len(colours) > 256:
        return content
    picture = Image.fromarray(index.reshape(packed.shape).astype(np.uint8))
    picture.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return min(content, file.getvalue(), key=len)


def as_svg(figure: Figure) -> bytes:
    """The figure as an SVG file without date or creator; its text is drawn as paths unless the caller's settings differ."""
    file = io.BytesIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", facecolor="white", metadata=empty)
    return file.getvalue()
