"""Did the map point where it should? A verdict from the map and named regions alone, that needs nobody to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import Attribution
from pellucid.contract.errors import InputError
from pellucid.report.audience_terms import Vocabulary
from pellucid.report.sections import Section
from pellucid.show.words import clean, percent

__all__ = ["Region", "Verdicts", "verdicts"]

SHIFTS = 16  # along each side: a map is laid in so many times so many places
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Region:
    """One named region of one row: `share` of what speaks for the answer lies in it, `area` of the picture does.

    `chance` is how often the same map, laid elsewhere on the picture, has as much in the region.
    """

    name: str
    share: float
    area: float
    chance: float

    @property
    def density(self) -> float:
        """How many times more lies in it than its size would have it."""
        return self.share / self.area if self.area > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One row: `verdict` is "as expected", "elsewhere" or "unclear"; `main` the region that most lies in for its size."""

    expected: str
    verdict: str
    main: str
    regions: tuple[Region, ...]

    def sentence(self) -> str:
        """The verdict in words."""
        expected = next(r for r in self.regions if r.name == self.expected)
        name, main = clean(expected.name, 60), clean(self.main, 60)
        share, area = percent(expected.share), percent(expected.area)
        told = f"{share} of what speaks for the answer lies in “{name}”, which is {area} of the picture"
        if self.verdict == "as expected":
            return f"As expected: {told}."
        if self.verdict == "elsewhere":
            other = f"; most of it for its size lies in “{main}”" if main and main != name else ""
            return f"Not as expected: {told}{other}."
        return f"Unclear: {told}, which may be by chance."


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The verdict on each row. `human_steps` is how often a person has to look at a map: never."""

    rows: tuple[Verdict, ...]
    human_steps: int = 0

    def counts(self) -> dict[str, int]:
        """How many rows got which verdict."""
        return {name: sum(r.verdict == name for r in self.rows) for name in ("as expected", "elsewhere", "unclear")}

    def sentences(self) -> list[str]:
        """Each row's verdict in words."""
        return [f"Case {i}. {row.sentence()}" for i, row in enumerate(self.rows, 1)]

    def section(self, heading: str = "Did it look at the right place?") -> Section:
        """The same for `pellucid.report.page`."""
        return Section(heading=heading, parts=self.sentences())

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "counts": self.counts()}


def verdicts(
    result: Attribution,
    regions: Mapping[str, Any],
    expected: str | Sequence[str],
    *,
    vocabulary: Any = None,
) -> Verdicts:
    """Did the map point where it should, told without anybody looking at it?

    Regions come from concept detectors, segmentations or planted worlds: for each row and name a mask. The share of the
    map's positive part that lies in the expected one is compared with the share that the same map has there when it is laid
    on the picture in 16 × 16 other places (over the edge and in again). "as expected": at most one in twenty of these has
    as much, and more lies there than the region's size would have it; "elsewhere": no more lies there than its size would
    have it; "unclear" else.

    Args:
        result: an attribution of pictures, (rows, channels, height, width).
        regions: {name: masks (rows, height, width)}, truth values, or one mask for all rows.
        expected: the name of the region that should matter, for all rows or for each.
        vocabulary: words for the names, by ids such as "region:wheel" or "concept:wheel".

    Cost: none of the model's. Known failures: a region as large as the picture can't be told from chance; maps that
    prefer the middle, as those of photographs do, reach a region in the middle by chance more often than one time in twenty
    (one in thirteen for squares that stay clear of the edge). The verdict is about the map, and worth what the map is: read
    it beside the check by removal.
    Source: Xie et al., Field guide, §5.2 (explanations that need no expert to read); the test by laying elsewhere is ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> mask[0, 2:4, 2:4] = True
        >>> net[1].weight.data = torch.stack([torch.zeros(64), mask.flatten().float()])
        >>> found = px.explain(net, torch.ones(1, 1, 8, 8), "gradient-x-input", target=1)
        >>> px.report.verdicts(found, {"corner": mask}, "corner").rows[0].verdict
        'as expected'
    """
    values = result.values
    if not isinstance(result, Attribution) or not isinstance(values, Tensor) or values.dim() != 4:
        raise InputError("The 'result' must be an attribution of pictures", got=type(result).__name__)
    masks = _masks(regions, values)
    wanted = [expected] * len(values) if isinstance(expected, str) else list(expected)
    if len(wanted) != len(values) or (unknown := [w for w in wanted if w not in masks]):
        got = f"{len(wanted)} names for {len(values)} rows" if len(wanted) != len(values) else repr(unknown[0])[:80]
        raise InputError(f"The 'expected' must name one of {', '.join(map(repr, masks))} for each row", got=got)
    words = None if vocabulary is None else Vocabulary.of(vocabulary)
    maps = values.detach().cpu().double().sum(1).clamp(min=0)
    measured = {name: _region(maps, mask) for name, mask in masks.items()}
    rows = []
    for i, name in enumerate(wanted):
        found = {
            k: Region(name=_word(words, k), share=float(s[i]), area=float(a[i]), chance=float(c[i]))
            for k, (s, a, c) in measured.items()
        }
        some = bool(maps[i].any())
        rows.append(
            Verdict(
                expected=found[name].name,
                verdict=_judge(found[name]) if some else "unclear",
                main=max(found.values(), key=lambda r: r.density).name if some else "",
                regions=tuple(found.values()),
            )
        )
    return Verdicts(rows=tuple(rows))


def _judge(region: Region) -> str:
    if region.share <= region.area:
        return "elsewhere"
    return "as expected" if region.chance <= LEVEL else "unclear"


def _region(maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's share of the map in the mask, the mask's area, how often the map laid elsewhere has as much there."""
    total = maps.flatten(1).sum(1)
    inside = (maps * mask).flatten(1).sum(1)
    sides = [sorted({round(k * n / SHIFTS) % n for k in range(SHIFTS)}) for n in maps.shape[1:]]
    count, places = torch.zeros(len(maps), dtype=torch.float64), 0
    for down in sides[0]:
        for right in sides[1]:
            laid = (maps.roll((down, right), (1, 2)) * mask).flatten(1).sum(1)
            # The map where it is counts too, so that the share is never 0.
            count, places = count + (laid >= inside * (1 - 1e-9)).double(), places + 1
    safe = total.where(total > 0, torch.ones(1).double())
    return inside / safe, mask.double().flatten(1).mean(1), count / places


def _masks(regions: Any, values: Tensor) -> dict[str, Tensor]:
    if not isinstance(regions, Mapping) or not regions:
        raise InputError("The 'regions' must be masks by name", got=type(regions).__name__, hint='{"wheel": mask}')
    found = {}
    for name, given in regions.items():
        mask = torch.as_tensor(given).detach().cpu()
        mask = mask[:, 0] if mask.dim() == 4 and mask.shape[1] == 1 else mask
        if mask.dim() != 3 or mask.shape[0] not in (1, len(values)) or bool(((mask != 0) & (mask != 1)).any()):
            raise InputError(
                f"The region {clean(name, 40)!r} must be truth values (rows, height, width)", got=str(mask.shape)
            )
        side = tuple(values.shape[2:])
        if tuple(mask.shape[1:]) != side:
            mask = functional.interpolate(mask[:, None].float(), size=side, mode="nearest")[:, 0]
        found[str(name)] = (mask > 0).expand(len(values), *side).double()
    return found


def _word(words: Vocabulary | None, name: str) -> str:
    if words is None:
        return name
    for kind in ("region", "concept"):
        if (term := words.term(f"{kind}:{name}")) is not None:
            return term.word
    return words.word(f"region:{name}")
