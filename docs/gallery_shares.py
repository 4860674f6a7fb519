"""Figures of shares where columns act on each other: causes, proxies, and shares without draws."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish, legend
from matplotlib.figure import Figure
from torch import Tensor

import pellucid as px
from pellucid import worlds
from pellucid.show import draw
from pellucid.show.palette import BLUE, RED, hexadecimal

# A planted chain: schooling raises income, both raise savings, and the answer reads income and savings. Noise is unit.
CHAIN = ("schooling", "income", "savings", "noise")
ACTS = {(0, 1): 0.8, (0, 2): 0.3, (1, 2): 0.6}
READS = (0.0, 1.0, 1.5, 0.0)


def causal() -> Drawn:
    """Shares of an answer that does not read the cause of what it reads, with and without the causal graph."""
    chance = torch.Generator().manual_seed(0)
    data = torch.randn(4000, 4, generator=chance, dtype=torch.float64)
    for (cause, effect), weight in ACTS.items():
        data[:, effect] += weight * data[:, cause]
    row, reads = torch.tensor([[1.0, 1.5, 2.0, 1.0]], dtype=torch.float64), torch.tensor(READS, dtype=torch.float64)

    def answer(x: Tensor) -> Tensor:
        return x @ reads[:, None]

    graph = px.attribution.CausalShapley(graph=((0,), (1,), (2,), (3,)))
    with_graph = px.explain(answer, row, graph, data=data, seed=0)
    without = px.explain(answer, row, px.attribution.CausalShapley(), data=data, seed=0).values[0]
    value, part = with_graph.values[0], {name: with_graph.parts[name][0] for name in ("direct", "indirect")}
    known = _by_formula(row[0], reads)
    gap = float((value - known).abs().max())
    assert gap < 0.1
    assert abs(float(without[0])) < 1e-9 < 0.5 < float(value[0])
    assert torch.allclose(part["direct"][[0, 3]], torch.zeros(2, dtype=torch.float64), atol=1e-9)
    return Drawn(
        _causal(part, without, known),
        "In this planted chain schooling raises income, both raise savings, and the answer reads income and savings "
        f"alone. Shapley values without a graph give schooling {float(without[0]):.1f}; with the graph it is due "
        f"{float(value[0]):.2f}, all of it through the columns that it acts on. What is due lies within {gap:.2f} of "
        "the values that the chain's formula gives (rings); its laws were learnt from 4000 rows.",
        {"with the graph": _round(value), "without": _round(without), "by formula": _round(known)},
    )


def _by_formula(row: Tensor, reads: Tensor) -> Tensor:
    """Shapley values of what the answer is on average when some columns are set: the chain's sums, worked through."""

    def worth(fixed: tuple[int, ...]) -> float:
        mean: list[float] = []
        for column in range(len(row)):
            drawn = sum(ACTS.get((cause, column), 0.0) * mean[cause] for cause in range(column))
            mean.append(float(row[column]) if column in fixed else drawn)
        return sum(float(r) * m for r, m in zip(reads, mean, strict=True))

    count = len(row)
    shares = torch.zeros(count, dtype=torch.float64)
    for column in range(count):
        others = [j for j in range(count) if j != column]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - 1 - size) / math.factorial(count)
            for fixed in combinations(others, size):
                shares[column] += weight * (worth((*fixed, column)) - worth(fixed))
    return shares


def _causal(part: dict[str, Tensor], without: Tensor, known: Tensor) -> Figure:
    """Bars of the two parts on each other, dots without the graph, rings by formula."""
    figure = draw.canvas(7.0, 2.7)
    axes = figure.subplots()
    places = list(range(len(CHAIN)))[::-1]
    direct, indirect = part["direct"], part["indirect"]
    axes.barh(places, direct.tolist(), height=0.5, color=hexadecimal(RED), label="by itself (direct)")
    axes.barh(
        places,
        indirect.tolist(),
        left=direct.tolist(),
        height=0.5,
        color="#f6c3b4",
        edgecolor=hexadecimal(RED),
        hatch="////",
        linewidth=0.6,
        label="through columns it acts on (indirect)",
    )
    ring = {"marker": "o", "facecolors": "none", "edgecolors": draw.INK, "s": 70, "linewidths": 1.4, "zorder": 3}
    axes.scatter(known.tolist(), places, label="sum by formula", **ring)
    axes.scatter(
        without.tolist(), places, marker="D", s=26, color=hexadecimal(BLUE), zorder=4, label="without the graph"
    )
    axes.axvline(0, color=draw.INK, linewidth=0.8)
    draw.labels(axes.yaxis, places, CHAIN)
    high = float(torch.stack([known, without, direct + indirect]).max())
    finish(axes, "x", 0.0, high, "share of the answer, less its mean")
    axes.set_xlim(left=-0.06 * high)
    legend(axes)
    return figure


def _round(values: Tensor) -> list[float]:
    return [round(v, 4) for v in values.tolist()]


def proxy() -> Drawn:
    """An answer that never reads the protected column: what it owes to it by way of its proxy."""
    world = worlds.tabular(1000)
    names = world.features
    rows, at = world.inputs.double(), world.features.index

    def planted(x: Tensor) -> Tensor:
        score = x[:, at("income (k€)")] + x[:, at("savings (k€)")] - x[:, at("district")]
        return torch.stack([-score, score], 1)

    def granted(output: Tensor) -> Tensor:
        return output[:, 1]

    audit = px.attribution.IndirectInfluence(measure="score")
    found = px.explain(planted, rows[:1], audit, target=granted, data=rows, seed=0)
    line = px.explain(planted, rows[:1], "iterative-orthogonal-projection", target=granted, data=rows, seed=0)
    straight = line.values[0].double()
    whole, direct, error = found.values[0].double(), found.parts["direct"][0], found.error[0].double()
    group, noise = at("group"), at("day of month")
    read = [at(name) for name in ("income (k€)", "savings (k€)", "district")]
    ber, before, chance = (float(found.parts[part][0, group]) for part in ("ber", "ber_before", "chance"))
    assert float(direct[group]) == 0.0
    assert sorted(direct.topk(3).indices.tolist()) == sorted(read)
    assert float(whole[group]) > 2 * float(whole[noise])
    assert before < 0.2 < 0.4 < ber
    assert float(straight[group]) > 0.5 > 0.1 > float(straight[noise])
    return Drawn(
        _proxy(names, {"whole": whole, "direct": direct, "straight": straight, "error": error}),
        "A planted answer reads income, savings and the district. Setting the protected group alone to its median "
        f"changes nothing; with the group gone from every column, answers move by {float(whole[group]):.2f} ± "
        f"{float(error[group]):.2f}, as the district gives it away; the day of the month, which tells of nothing, "
        f"moves them by {float(whole[noise]):.2f}. Taking away straight lines alone gives "
        f"{float(straight[group]):.2f} and {float(straight[noise]):.2f}. A small tree tells the group from the other "
        f"columns with {100 * before:.0f} % errors before and {100 * ber:.0f} % after (guessing: {100 * chance:.0f} "
        "%).",
        {
            "influence": dict(zip(names, _round(whole), strict=True)),
            "direct": dict(zip(names, _round(direct), strict=True)),
        },
    )


def _proxy(names: tuple[str, ...], found: dict[str, Tensor]) -> Figure:
    """For each column a line from what it does alone to what answers owe to it."""
    order = found["whole"].argsort(descending=True).tolist()
    whole, direct, straight, error = (found[name][order] for name in ("whole", "direct", "straight", "error"))
    figure = draw.canvas(7.0, 0.8 + 0.25 * len(order))
    axes = figure.subplots()
    places = list(range(len(order)))[::-1]
    axes.hlines(places, direct.tolist(), whole.tolist(), color="#b9bfca", linewidth=2)
    marks = {"marker": "D", "s": 28, "color": HUES[1][0], "zorder": 3}
    axes.scatter(direct.tolist(), places, label="column alone (direct)", **marks)
    ring = {"marker": "s", "s": 34, "facecolors": "white", "edgecolors": draw.INK, "linewidths": 1.2, "zorder": 3}
    axes.scatter(straight.tolist(), places, label="also what follows it in a straight line", **ring)
    dots = {"fmt": "o", "color": HUES[0][0], "markersize": 6, "elinewidth": 1.2, "capsize": 3, "zorder": 4}
    spread = (2 * error).tolist()
    axes.errorbar(whole.tolist(), places, xerr=spread, label="also through others (± 2 standard errors)", **dots)
    axes.axvline(0, color=draw.INK, linewidth=0.8)
    draw.labels(axes.yaxis, places, [names[j] for j in order])
    finish(axes, "x", 0.0, float((whole + 2 * error).max()), "root mean square change of the answer")
    legend(axes)
    return figure


ENTRIES = (
    *entry("causal", "Causal shares", "causal-shapley", causal),
    *entry(
        "proxy", "Influence through other columns", "indirect-influence-auditing iterative-orthogonal-projection", proxy
    ),
)
