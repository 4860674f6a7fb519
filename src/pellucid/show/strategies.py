"""Groups of rows whose explanations are alike: where they lie, what the network looks at in each; and the same in words."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.show import draw, palette
from pellucid.show.answer import class_name
from pellucid.show.curves import COLOURS
from pellucid.show.facts import title_of
from pellucid.show.options import Options
from pellucid.show.parts import regions
from pellucid.show.words import clean, counted, listed, number, percent

MOST = 5  # groups that get a picture
BARS = 6
NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def has(result: Attribution) -> bool:
    """Whether a result tells groups of data rows, with their place in a plane and a mean map."""
    group, place, maps = (result.parts.get(name) for name in ("group", "place", "map"))
    if not all(isinstance(x, Tensor) for x in (group, place, maps, result.parts.get("share"), result.values)):
        return False
    assert group is not None
    assert place is not None
    return group.dim() == 2 and tuple(place.shape) == (*group.shape, 2)


def figure(result: Attribution, wanted: Options) -> Figure:
    """For each score explained a line: the rows in the plane, the eigenvalues, each group's mean map under a row of it."""
    leaders = _leaders(result)
    drawn = leaders[: wanted.rows]
    shown = max(min(MOST, int((result.parts["share"][row] > 0).sum())) for row in drawn)
    pictured = result.parts["map"].dim() == 4
    whole = draw.canvas(3.6 + (1.7 if pictured else 2.4) * shown, 0.9 + (3.9 if pictured else 3.2) * len(drawn))
    body = whole.subfigures(len(drawn), 2, squeeze=False, width_ratios=[3.4, (1.7 if pictured else 2.4) * shown])
    for line, row in zip(body, drawn, strict=True):
        _plane(line[0], result, row)
        (_pictures if pictured else _bars)(line[1], result, row, shown)
    notes = ["dots: rows of the data, near those with like explanations"]
    notes += ["boxed name: few rows, set apart"] if _any_candidate(result, drawn) else []
    notes += [f"{counted(len(leaders) - len(drawn), 'more score')} not drawn"] if len(leaders) > len(drawn) else []
    draw.foot(whole, "; ".join(notes))
    draw.head(whole, wanted.headed, title_of(result))
    return whole


def _leaders(result: Attribution) -> list[int]:
    """The first row of each score: rows of one class share their groups."""
    found: list[int] = []
    for row in range(len(result.parts["place"])):
        if not any(torch.equal(result.parts["place"][row], result.parts["place"][other]) for other in found[-64:]):
            found.append(row)
    return found


def _candidate(result: Attribution, row: int, group: int) -> bool:
    marks = result.parts.get("candidate")
    return isinstance(marks, Tensor) and bool(marks[row, group] > 0)


def _any_candidate(result: Attribution, rows: list[int]) -> bool:
    return any(_candidate(result, row, g) for row in rows for g in range(result.parts["share"].shape[1]))


def _size(result: Attribution, row: int, group: int) -> int:
    return int((result.parts["group"][row] == group).sum())


def _plane(place: Any, result: Attribution, row: int) -> None:
    """The data rows where the layout puts them, coloured by group, and the eigenvalues whose gap counted the groups."""
    values = result.parts.get("eigenvalue")
    several = isinstance(values, Tensor) and values.dim() == 2
    rows = place.subplots(2 if several else 1, 1, squeeze=False, height_ratios=[3.2, 1] if several else [1])[:, 0]
    group, spots = result.parts["group"][row], palette.finite(result.parts["place"][row])
    for g in range(int((result.parts["share"][row] > 0).sum())):
        mine = spots[group == g]
        rows[0].scatter(mine[:, 0], mine[:, 1], s=14, color=COLOURS[g % len(COLOURS)], linewidth=0, alpha=0.85)
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": COLOURS[g % len(COLOURS)], "lw": 1.4}
        extra = {"bbox": box} if _candidate(result, row, g) else {}
        middle = mine[(mine - mine.mean(0)).square().sum(1).argmin()]
        draw.note(rows[0], float(middle[0]), float(middle[1]), _name(g), fontweight="bold", ha="center", **extra)
    draw.bare(rows[0])
    many = int((group >= 0).sum())
    draw.title(rows[0], f"{_score(result, row)}: {counted(many, 'row')}", longest=44)
    if several:
        assert values is not None
        _eigenvalues(rows[1], palette.finite(values[row]), int((result.parts["share"][row] > 0).sum()))


def _eigenvalues(axes: Any, values: Tensor, groups: int) -> None:
    place = list(range(1, len(values) + 1))
    axes.plot(place, values.tolist(), "o", color=draw.FAINT, markersize=3.2)
    if groups < len(values):
        axes.axvspan(groups, groups + 1, color=COLOURS[0], alpha=0.15, linewidth=0)
    draw.numbers(axes.yaxis, 0.0, float(values.max().clamp(min=1e-6)), 2)
    marks = place[:: 1 + (len(place) - 1) // 6]  # whole numbers, at most six of them
    draw.labels(axes.xaxis, marks, [str(k) for k in marks], color=draw.FAINT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=2, colors=draw.FAINT)
    gap = f"gap after {groups}" if groups < len(values) else counted(groups, "group")
    draw.title(axes, f"least eigenvalues: {gap}", size=8, longest=44)


def _name(group: int) -> str:
    return NAMES[group] if group < len(NAMES) else f"group {group + 1}"


def _heads(axes: Any, result: Attribution, row: int, group: int) -> None:
    size, many = _size(result, row, group), int((result.parts["group"][row] >= 0).sum())
    apart = ", set apart" if _candidate(result, row, group) else ""
    draw.title(axes, f"{_name(group)}{apart}", f"{size} of {many} rows", longest=34)


def _frame(axes: Any, group: int) -> None:
    for side in axes.spines.values():
        side.set_color(COLOURS[group % len(COLOURS)])
        side.set_linewidth(1.8)


def _pictures(place: Any, result: Attribution, row: int, shown: int) -> None:
    """An input of each group, where one is known, over the group's mean map."""
    examples = [_example(result, row, g) for g in range(shown)]
    lines = 2 if any(e is not None for e in examples) else 1
    axes = place.subplots(lines, shown, squeeze=False)
    maps = result.parts["map"][row]
    by = palette.scale(maps, 99.0, signed=True)
    for g in range(shown):
        if not result.parts["share"][row, g] > 0:
            for line in axes:
                line[g].axis("off")
            continue
        example = examples[g]
        if example is not None:
            draw.photo(axes[0][g], palette.picture(example))
        elif lines > 1:
            axes[0][g].axis("off")
        draw.photo(axes[-1][g], palette.coloured(palette.finite(maps[g]), by))
        _frame(axes[-1][g], g)
        _heads(axes[0][g], result, row, g)
    draw.bar(place, list(axes[-1]), by, "share of the explanation")


def _example(result: Attribution, row: int, group: int) -> Tensor | None:
    """The explained image of this group with the highest score."""
    given, mine = result.context.inputs, result.facts.get("group")
    if not isinstance(given, Tensor) or given.dim() != 4 or not isinstance(mine, Tensor) or len(mine) != len(given):
        return None
    same = torch.stack([torch.equal(p, result.parts["place"][row]) * torch.ones(1) for p in result.parts["place"]])
    fits = (same[:, 0] > 0) & (mine == group)
    if not bool(fits.any()):
        return None
    score = result.facts.get("score", torch.zeros(len(mine)))
    return given[int(torch.where(fits, palette.finite(score), -torch.inf).argmax())].detach().cpu()


def _bars(place: Any, result: Attribution, row: int, shown: int) -> None:
    """Each group's mean values, the largest columns first."""
    axes = place.subplots(1, shown, squeeze=False)[0]
    maps = palette.finite(result.parts["map"][row]).flatten(1)
    edge = 1.15 * float(maps.abs().max().clamp(min=1e-12))
    for g in range(shown):
        if not result.parts["share"][row, g] > 0:
            axes[g].axis("off")
            continue
        order = maps[g].abs().argsort(descending=True, stable=True)[:BARS].tolist()
        colours = [palette.hexadecimal(palette.RED if maps[g, j] >= 0 else palette.BLUE) for j in order]
        axes[g].barh(range(len(order)), [float(maps[g, j]) for j in order], color=colours, height=0.7)
        axes[g].axvline(0, color=draw.FAINT, linewidth=0.8)
        axes[g].invert_yaxis()
        axes[g].set_xlim(-edge, edge)
        draw.labels(axes[g].yaxis, range(len(order)), [_column(result, j) for j in order], longest=18)
        draw.numbers(axes[g].xaxis, -edge, edge, 3)
        _frame(axes[g], g)
        _heads(axes[g], result, row, g)
    draw.plain(axes[0].set_xlabel("share of the explanation", fontsize=8, color=draw.FAINT))


def _column(result: Attribution, column: int) -> str:
    names = result.context.features
    return clean(names[column]) if len(names) == result.parts["map"].flatten(2).shape[2] else f"input {column}"


def _score(result: Attribution, row: int) -> str:
    if isinstance(result.target, Tensor) and row < result.target.numel():
        return f"“{class_name(int(result.target.flatten()[row]), result.context.classes)}”"
    return "the score"


def mattered(result: Attribution, row: int, most: int) -> str:
    """How many strategies there are, how many rows follow each, where each looks, and which is the row's own."""
    share = palette.finite(result.parts["share"][row])
    found = [g for g in range(len(share)) if share[g] > 0]
    many = int((result.parts["group"][row] >= 0).sum())
    own = result.facts.get("group")
    mine = f" This row is like those of {_name(int(own[row]))}." if isinstance(own, Tensor) and row < len(own) else ""
    start = f"Explanations of {_score(result, row)} for {counted(many, 'row')}"
    if len(found) == 1:
        return f"{start} do not fall into groups: they rest mostly on {_where(result, row, 0)}."
    said = [f"{_name(g)} ({percent(float(share[g]))}), mostly on {_where(result, row, g)}" for g in found[:most]]
    rest = f", and {len(found) - most} more" if len(found) > most else ""
    apart = [_name(g) for g in found if _candidate(result, row, g)]
    told = f" Set apart from the others: {listed(apart)}; look at these rows." if apart else ""
    return f"{start} fall into {number(len(found))} groups: {'; '.join(said)}{rest}.{told}{mine}"


def _where(result: Attribution, row: int, group: int) -> str:
    heat = palette.finite(result.parts["map"][row, group])
    if not bool((heat != 0).any()):
        return "nothing"
    if heat.dim() == 2:
        return f"the {regions(heat.abs())[0][0]}"
    return _column(result, int(heat.abs().argmax()))
