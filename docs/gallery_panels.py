"""What the gallery is drawn with: its two cases, a row of small maps over one legend, and small files."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import pellucid as px
from pellucid.contract import Context
from pellucid.show import draw, palette
from pellucid.show.answer import answers
from pellucid.show.words import number

DOTS = 100
FULL = 99.0  # percentile of the values' sizes that gets full colour


@dataclass(frozen=True)
class Case:
    """One input of one network: what it was, what was answered, and the planted object's pixels where they are known."""

    name: str
    model: nn.Module
    world: Any
    row: int
    layer: str
    mask: Tensor | None = None

    @property
    def input(self) -> Tensor:
        """The input alone, as a batch of one."""
        return self.world.test[0][self.row : self.row + 1]

    @property
    def truth(self) -> int:
        """The right class."""
        return int(self.world.test[1][self.row])

    def scores(self, inputs: Tensor) -> Tensor:
        """The network's output."""
        with torch.no_grad():
            return self.model(inputs)

    def head(self) -> str:
        """What the network said of the input, and what is right."""
        said = answers(Context(output=self.scores(self.input), classes=self.world.classes), 1)[0]
        share, name = round(100 * (said.share or 0)), said.name
        answer = f"network's answer: “{name}” ({share} %), truth: “{self.world.classes[self.truth]}”"
        return f"{answer}. Explained: the score of “{name}”"


def digits() -> Case:
    """The first held-out digit that the network misreads."""
    world, model = px.zoo.data("digits-cnn"), px.zoo.load("digits-cnn")
    inputs, labels = world.test
    with torch.no_grad():
        row = int((model(inputs).argmax(1) != labels).nonzero()[0])
    return Case("digits", model, world, row, "conv2")


def shapes() -> Case:
    """The first held-out star, read rightly, whose two bystanders together cover more than 100 pixels."""
    world, model = px.zoo.data("shapes-cnn"), px.zoo.load("shapes-cnn")
    inputs, labels = world.test
    masks = world.truth["masks"]
    main, others = masks["main object"][world.test_rows], masks["bystanders"][world.test_rows]
    fits = (labels == world.classes.index("star")) & (others.flatten(1).sum(1) > 100)
    with torch.no_grad():
        rows = fits.nonzero().flatten()
        row = int(rows[model(inputs[rows]).argmax(1) == labels[rows]][0])
    return Case("shapes", model, world, row, "block3", main[row])


@functools.cache
def case_of(name: str) -> Case:
    """A case by name, made once."""
    return {"digits": digits, "shapes": shapes}[name]()


def heat(values: Any) -> Tensor:
    """The map of a row: values summed over channels, (height, width)."""
    return values.detach().cpu().double()[0].sum(0)


def plane(values: Any) -> Tensor:
    """The map of a row whose channels all carry the figure of their place, (height, width)."""
    channels = values.detach().cpu().double()[0]
    assert torch.allclose(channels, channels[:1].expand_as(channels))
    return channels[0]


def positive_share(values: Any, mask: Tensor) -> float:
    """Which share of the positive values lies on the mask; coarse maps are enlarged first, as they are drawn."""
    sizes = heat(values)
    if sizes.shape != mask.shape:
        sizes = palette.upsample(sizes, *mask.shape).double()
    positive = sizes.clamp(min=0)
    return float(positive[mask].sum() / positive.sum())


def maps(case: Case, found: dict[str, Tensor], head: str = "", *, signed: bool = True, unit: str = "") -> Figure:
    """The input, then one map each, over its own limits; the legend at the right holds for all."""
    figure = draw.canvas(1.28 * (len(found) + 1) + 0.75, 2.05)
    axes = figure.subplots(1, len(found) + 1)
    draw.photo(axes[0], palette.picture(case.input[0]))
    draw.title(axes[0], "input", size=7.5)
    height, width = case.input.shape[-2:]
    for place, (label, values) in zip(axes[1:], found.items(), strict=True):
        values = values if values.dim() == 2 else heat(values)
        by = palette.scale(values, FULL, signed=signed)
        shown = values if tuple(values.shape) == (height, width) else palette.upsample(values, height, width)
        draw.photo(place, palette.coloured(shown, by))
        if case.mask is not None:
            for line, width_of_line in (("white", 1.6), (draw.INK, 0.6)) if not signed else ((draw.INK, 0.6),):
                place.contour(case.mask.double().numpy(), levels=[0.5], colors=[line], linewidths=width_of_line)
        draw.title(place, *label.split("\n"), size=7.5)
        reach = f"{'±' if signed else '0 to '}{number(by.limit, 2)}{unit}"
        draw.plain(place.set_xlabel(reach, fontsize=7, color=draw.FAINT, labelpad=2))
    _legend(figure, axes, signed)
    draw.plain(figure.suptitle(head or case.head(), fontsize=8.5, color=draw.INK, x=0.01, ha="left"))
    return figure


def _legend(figure: Figure, axes: Any, signed: bool) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, hues = (-1, palette.SIGNED) if signed else (0, palette.SIZED)
    key = figure.colorbar(ScalarMappable(Normalize(low, 1), hues), ax=list(axes), fraction=0.02, pad=0.01, shrink=0.75)
    key.set_ticks([-1, 0, 1] if signed else [0, 1], labels=["lowers", "0", "raises"] if signed else ["none", "most"])
    key.outline.set_visible(False)
    key.ax.tick_params(labelsize=7, length=2, colors=draw.FAINT)
    for label in key.ax.get_yticklabels():
        draw.plain(label)


def pictures(case: Case, images: Tensor, labels: list[str]) -> Figure:
    """The input and other pictures beside it, each with its label."""
    figure = draw.canvas(1.28 * (len(images) + 1), 1.9)
    axes = figure.subplots(1, len(images) + 1)
    for place, image, label in zip(axes, [case.input[0], *images], ["input", *labels], strict=True):
        draw.photo(place, palette.picture(image))
        draw.title(place, *label.split("\n"), size=7.5)
    head = case.head().split(". Explained")[0]
    draw.plain(figure.suptitle(head, fontsize=8.5, color=draw.INK, x=0.01, ha="left"))
    return figure


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's, over all pixels."""
    return float(torch.corrcoef(torch.stack([first.double().flatten(), second.double().flatten()]))[0, 1])


def as_png(figure: Figure) -> bytes:
    """The figure as a small PNG file of 256 colours, none of them further than 16 of 255 from what was drawn."""
    file, small = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS, facecolor="white")
    with Image.open(file) as opened:
        drawn = opened.convert("RGB")
    # The commonest colours stay exact, neutral grey and white among them; others cover the range, whatever their area, so
    # that a small input keeps its hues.
    pixels = np.asarray(drawn).reshape(-1, 3).astype(int)
    colours, where, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    rest = drawn.quantize(160, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette() or []
    table = np.concatenate([colours[np.argsort(-counts, kind="stable")[:96]], np.array(rest[: 3 * 160]).reshape(-1, 3)])
    distance = np.abs(colours[:, None] - table[None]).max(-1)
    assert distance.min(1).max() <= 16
    reduced = Image.fromarray(distance.argmin(1)[where].astype(np.uint8).reshape(drawn.height, drawn.width))
    reduced.putpalette(table.flatten().tolist())
    reduced.save(small, "PNG", optimize=True)
    return small.getvalue()
