"""How much is there to take in? Entropy, size and sparsity of a map."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import Evaluation, Judged, by_class, overall
from pellucid.engine.settings import whole
from pellucid.evaluation.marked import maps, places, refuse_pooling

__all__ = ["HeatmapEntropy"]

FIGURES = {
    "grey levels": "bits",
    "shares": "bits",
    "bytes": "bytes",
    "gini": "Gini index",
    "variation": "share of the map",
}


@dataclass(frozen=True, kw_only=True)
class HeatmapEntropy(Evaluation):
    """How much is there to take in, on the map: does it point to little, or to everything a bit?

    With one figure for each place (pixel, step, column), all of them over the places of a row:

    - ``grey levels``: the entropy ``-Σ p_b log₂ p_b`` of the histogram of figures in ``bins`` levels from the smallest to
      the largest, in bits: 0 for a map of one value, log₂ ``bins`` where all levels are equally frequent.
    - ``bytes``: the size of the map as an 8-bit greyscale PNG file (made in memory).
    - ``shares``: the entropy of the magnitudes as shares of their sum, in bits: log₂ n where all n places matter alike.
    - ``gini``: the Gini index of the magnitudes: 0 where all matter alike, near 1 where one place alone does.
    - ``variation``: the total variation, the sum of differences between neighbours along each axis, as a share of the sum
      of magnitudes: 0 for an even map, large for a noisy one; 2 for one place inside a line, 4 inside a picture.

    Choose in ``figure`` which of them ``values`` is; `facts` hold all. Lower is simpler, for ``gini`` higher. A map of
    zeros counts as one where all places matter alike. ``source["overall"]`` is the mean over rows with its 95 % interval.

    Args:
        of: the explanation that is measured: a method or its name.
        figure: "grey levels", "bytes", "shares", "gini" or "variation".
        bins: grey levels of the histogram.
        pooling: how a place's channels become one figure: "sum", "absolute" (of the sum), "norm" or "largest".

    Cost: that of ``of``.
    Known failure: a map that is simple because it is wrong scores best: read it beside a measure of faithfulness. Entropy
    of grey levels ignores where these lie, file size does not; both depend on the map's size, so compare on one image.
    Source: Samek, Binder, Montavon, Lapuschkin & Müller 2017, §IV (file size and image entropy; theirs are colour
    images); ``shares``: Bhatt, Weller & Moura 2020; ``gini``: Chalasani et al. 2020.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> w = torch.nn.init.constant_(net.weight, 1.0)
        >>> px.explain(net, torch.tensor([[0.0, 1.0, 2.0, 3.0]]), "heatmap-entropy").values.item()
        2.0
    """

    figure: str = "grey levels"
    bins: int = 256
    pooling: str = "sum"

    quality: ClassVar[str] = "simplicity"

    card: ClassVar[Card] = Card(
        name="heatmap-entropy",
        title="Complexity of a map",
        question="How much is there to take in, on the map?",
        form="measure",
        scope="local",
        citation="samek2017evaluating",
        needs=("predictions",),
        data_types=("image", "table", "sequence", "text"),
        taxonomy={"003": "evaluation/complexity"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "pooling": "norm"},
        cost="that of the explanation",
        supports=("which of two maps of the same row is simpler to look at",),
        limits=("whether the simpler map is right",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.figure not in FIGURES:
            raise MethodError(f"The 'figure' must be one of {tuple(FIGURES)}", got=repr(self.figure))
        whole(bins=(self.bins, 2))
        refuse_pooling(self.pooling)
        places(ask)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        v = maps(judged, None, self.pooling)
        flat = v.flatten(1)
        figures = {
            "grey levels": histogram_entropy(flat, self.bins),
            "bytes": torch.tensor([len(png(grey)) for grey in levels(v, 256)], dtype=torch.float64),
            "shares": share_entropy(flat),
            "gini": gini(flat),
            "variation": variation(v),
        }
        found = figures[self.figure]
        return Measure(
            values=found,
            better="higher" if self.figure == "gini" else "lower",
            unit=FIGURES[self.figure],
            facts={name.replace(" ", "_"): value for name, value in figures.items()},
            source={"overall": overall(found), "by_class": by_class(found, ask.explained_class)},
        )


def levels(v: Tensor, bins: int) -> Tensor:
    """The level from 0 to bins - 1 of each figure, between its row's smallest and largest; 0 where these are equal."""
    low, high = v.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (v.dim() - 1))
    low, range_ = low.reshape(shape), (high - low).reshape(shape)
    share = torch.where(range_ > 0, (v - low) / torch.where(range_ > 0, range_, 1.0), 0.0)
    return (share * bins).floor().clamp(0, bins - 1).long()


def histogram_entropy(flat: Tensor, bins: int) -> Tensor:
    """Bits of the histogram of each row's figures."""
    counts = torch.stack([row.bincount(minlength=bins) for row in levels(flat, bins)]).double()
    return bits(counts / flat.shape[1])


def share_entropy(flat: Tensor) -> Tensor:
    """Bits of each row's magnitudes as shares of their sum."""
    total = flat.abs().sum(1, keepdim=True)
    return bits(torch.where(total > 0, flat.abs() / torch.where(total > 0, total, 1.0), 1 / flat.shape[1]))


def bits(shares: Tensor) -> Tensor:
    """The entropy of each row of shares."""
    return -(torch.special.xlogy(shares, shares)).sum(1) / math.log(2) + 0.0


def gini(flat: Tensor) -> Tensor:
    """``Σ (2k - n - 1) |v|_(k) / (n Σ |v|)`` for each row's magnitudes in ascending order, k from 1."""
    ordered, count = flat.abs().sort(1).values, flat.shape[1]
    weight = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
    total = ordered.sum(1)
    return torch.where(total > 0, (ordered * weight).sum(1) / (count * torch.where(total > 0, total, 1.0)), 0.0)


def variation(v: Tensor) -> Tensor:
    """``Σ |v_i - v_j| / Σ |v|`` over neighbours i, j along each axis of a row's figures; 0 for a map of zeros."""
    apart = torch.stack([v.diff(dim=axis).abs().flatten(1).sum(1) for axis in range(1, v.dim())]).sum(0)
    total = v.abs().flatten(1).sum(1)
    return torch.where(total > 0, apart / torch.where(total > 0, total, 1.0), 0.0)


def png(grey: Tensor) -> bytes:
    """An 8-bit greyscale PNG file of levels (height, width); one line for a table or a sequence."""
    picture = grey.reshape(-1, grey.shape[-1]).to(torch.uint8).numpy()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", picture.shape[1], picture.shape[0], 8, 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in picture)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
