"""Figures of lines through a table: rows picked for their lines, and regimes in which other lines hold."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish, legend
from matplotlib.figure import Figure
from torch import Tensor

import pellucid as px
from pellucid.show import draw, palette

PICKED, AMONG, DRAWS = 4, 60, 1000


def _benign(output: Tensor) -> Tensor:
    """The logarithm of the odds of benign."""
    return output[:, 1] - output[:, 0]


def pick() -> Drawn:
    """The four tumours whose lines by LIME name most of what all lines name, against drawn ones and the best."""
    world, model = px.zoo.data("breast-cancer-mlp"), px.zoo.load("breast-cancer-mlp")
    rows, data = world.test[0][:AMONG], world.train[0]
    lines = px.attribution.Lime(select=5, samples=1000)
    settings: dict[str, Any] = {"target": _benign, "data": data, "seed": 0}
    found = px.explain(model, rows, px.attribution.SubmodularPick(of=lines, budget=PICKED), **settings)
    weights = px.explain(model, rows, lines, **settings).values.double()
    present, importance = weights != 0, weights.abs().sum(0).sqrt()

    def covered(sets: Tensor) -> Tensor:
        return (present[sets].any(1).double() @ importance) / importance.sum()

    order = found.items[0]
    by_pick = torch.stack([covered(order[None, : k + 1])[0] for k in range(PICKED)])
    assert abs(float(by_pick[-1] - found.facts["coverage"][0])) < 1e-6
    chance = torch.Generator().manual_seed(0)
    shuffled = torch.stack([torch.randperm(AMONG, generator=chance)[:PICKED] for _ in range(DRAWS)])
    drawn = torch.stack([covered(shuffled[:, : k + 1]) for k in range(PICKED)])
    every = torch.tensor(list(combinations(range(AMONG), PICKED)))
    best = max(float(covered(part).max()) for part in every.split(50_000))
    got, mean = float(by_pick[-1]), float(drawn[-1].mean())
    assert mean + 0.1 < got <= best
    assert got >= 0.63 * best  # what is promised
    named = int(present.any(0).sum())
    return Drawn(
        _picked(weights[order], present[order], world.features, by_pick, drawn, best),
        f"LIME's lines of five columns for {AMONG} tumours name {named} of {len(world.features)} columns. The "
        f"{PICKED} tumours that the pick chooses cover {100 * got:.0f} % of what all lines name, weighted by "
        f"importance; {PICKED} drawn at random {100 * mean:.0f} % on average, the best of all {len(every):,} sets "
        f"{100 * best:.0f} %. Framed: columns that no tumour to the left shows.",
        {"covered": round(got, 4), "at random": round(mean, 4), "best": round(best, 4), "columns": named},
    )


def _picked(weights: Tensor, present: Tensor, features: Any, by_pick: Tensor, drawn: Tensor, best: float) -> Figure:
    """The chosen rows' lines, a column each; and how much is covered after each of them."""
    from matplotlib.patches import Rectangle

    first = torch.where(present.any(0), present.double().argmax(0), len(present))
    shown = [j for j in first.argsort(stable=True).tolist() if present[:, j].any()]
    figure = draw.canvas(8.4, 0.9 + 0.22 * len(shown))
    table, curve = figure.subplots(1, 2, width_ratios=(1.25, 1))
    by = palette.scale(weights, 100)
    table.imshow(palette.coloured(weights[:, shown].T, by), interpolation="nearest", aspect="auto")
    draw.bare(table)
    for line, j in enumerate(shown):
        for column in range(len(weights)):
            if present[column, j]:
                value = float(weights[column, j])
                ink = palette.shade(value, by)[1]
                draw.note(table, column, line, f"{value:z.1f}", ha="center", va="center", fontsize=7, color=ink)
            if column == int(first[j]):
                frame = {"fill": False, "edgecolor": draw.INK, "linewidth": 1.1}
                table.add_patch(Rectangle((column - 0.47, line - 0.44), 0.94, 0.88, **frame))
    draw.labels(table.yaxis, range(len(shown)), [features[j] for j in shown], fontsize=7.5)
    draw.labels(table.xaxis, range(len(weights)), [f"tumour {k + 1}" for k in range(len(weights))], fontsize=7.5)
    table.tick_params(length=0)
    draw.bar(figure, table, by, "log-odds of benign")
    along = list(range(1, len(weights) + 1))
    (own, solid), (other, dashed), _ = HUES
    curve.plot(along, by_pick.tolist(), solid, marker="o", color=own, linewidth=2, label="picked")
    curve.plot(along, drawn.mean(1).tolist(), dashed, marker="s", color=other, linewidth=2, label="drawn at random")
    band = drawn.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64), dim=1).tolist()
    curve.fill_between(along, *band, color=other, alpha=0.18, linewidth=0, label="90 % of random draws")
    curve.plot(along[-1:], [best], "*", color=draw.INK, markersize=9, label=f"best {len(weights)} of all sets")
    curve.set_ylim(0, 1.03)
    finish(curve, "y", 0.0, 1.0, "share of the lines' importance covered")
    draw.labels(curve.xaxis, along, [str(k) for k in along], color=draw.FAINT)
    draw.plain(curve.xaxis.label).set(text="tumours shown", fontsize=8, color=draw.FAINT)
    legend(curve)
    return figure


ROWS, SIDE, SPLIT = 400, 32, (3.0, -2.0)


def regimes() -> Drawn:
    """A table with two planted regimes, and the slopes that two methods find all over it."""
    chance = torch.Generator().manual_seed(0)
    data = 4 * torch.rand(ROWS, 3, generator=chance, dtype=torch.float64) - 2
    middle = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * 4 / SIDE - 2
    asked = torch.cat([torch.cartesian_prod(middle, middle), torch.zeros(SIDE**2, 1, dtype=torch.float64)], 1)
    up, down = SPLIT

    def planted(x: Tensor) -> Tensor:
        return torch.where(x[:, :1] + x[:, 1:2] > 0, up * x[:, :1] - 1, down * x[:, 1:2] + 1)

    border = asked[:, 0] + asked[:, 1]
    truth = torch.zeros_like(asked)
    truth[border > 0, 0], truth[border <= 0, 1] = up, down
    found = {
        "mixture of lines": px.explain(planted, asked, "dmm-men", data=data, seed=0),
        "MAPLE": px.explain(planted, asked, px.attribution.Maple(columns=3), data=data, seed=0),
    }
    mixture = found["mixture of lines"]
    many = int(mixture.facts["components"][0])
    off = {name: (r.values - truth).abs().amax(1) for name, r in found.items()}
    right = float((off["mixture of lines"] < 0.05).double().mean())
    near = border.abs() < 0.5
    close, far = (float(off["MAPLE"][part].median()) for part in (near, ~near))
    r2, line = float(mixture.facts["heldout_r_squared"][0]), float(mixture.facts["line_r_squared"][0])
    assert many == 2
    assert right > 0.9
    assert r2 > line + 0.2
    assert close > 1.5 * far
    return Drawn(
        _regimes({"planted": truth, **{name: r.values for name, r in found.items()}}),
        f"Above the dotted line the answer rises by {up:.0f} per unit of x₁, below it falls by {-down:.0f} per unit "
        f"of x₂; a third column does nothing. From {ROWS} rows the mixture finds {many} lines by itself and gives "
        f"{100 * right:.0f} % of all places the right slopes (all three within 0.05); its lines explain "
        f"{100 * r2:.0f} % of the variance of held-out answers, one line for all {100 * line:.0f} %. MAPLE draws a "
        "line through the rows near each place, so that slopes run into each other: the worst of a place is off by "
        f"{close:.1f} (median) within 0.35 of the border and by {far:.1f} elsewhere.",
        {"lines": many, "right": round(right, 4), "maple near": round(close, 3), "maple far": round(far, 3)},
    )


def _regimes(slopes: dict[str, Tensor]) -> Figure:
    """Slopes over the plane of two columns: a column for each method, a line for each slope."""
    figure = draw.canvas(8.0, 4.6)
    axes = figure.subplots(2, len(slopes), sharex=True, sharey=True)
    by = palette.scale(torch.tensor([-max(map(abs, SPLIT)), max(map(abs, SPLIT))]), 100)
    for column, (name, values) in enumerate(slopes.items()):
        for line in range(2):
            place, plane = axes[line, column], values[:, line].reshape(SIDE, SIDE).T
            place.imshow(palette.coloured(plane, by), origin="lower", extent=(-2, 2, -2, 2), interpolation="nearest")
            place.plot([-2, 2], [2, -2], ":", color=draw.INK, linewidth=1)
            draw.numbers(place.xaxis, -2, 2, 4)
            draw.numbers(place.yaxis, -2, 2, 4)
            draw.title(place, f"{name}: slope of x{'₁₂'[line]}", size=8.5)
            place.tick_params(length=2, color=draw.FAINT)
            if line:
                draw.plain(place.xaxis.label).set(text="x₁", fontsize=8, color=draw.FAINT)
            if not column:
                draw.plain(place.yaxis.label).set(text="x₂", fontsize=8, color=draw.FAINT)
    draw.bar(figure, list(axes.flatten()), by, "slope: answer per unit of the column")
    return figure


LEVELS, TOLD = (1, 5, 10, 16, 29, 48, 100), 5


def lines_tree() -> Drawn:
    """How many lines the diabetes network needs, and the two that most patients follow."""
    world, model = px.zoo.data("diabetes-mlp"), px.zoo.load("diabetes-mlp")
    rows, data = world.test[0], world.train[0]

    def progression(output: Tensor) -> Tensor:
        return output[:, 0] * world.label_scale

    def ask(groups: int) -> px.Attribution:
        method = px.attribution.Mame(neighbours=10, groups=groups)
        return px.explain(model, rows, method, target=progression, data=data, seed=0)

    tree = {int(r.facts["groups"][0]): r for r in map(ask, LEVELS)}
    r2 = {count: float(r.facts["tree_fidelity"][0]) for count, r in tree.items()}
    fresh = {count: float(r.facts["fidelity"].median()) for count, r in tree.items()}
    told = tree[TOLD]
    slopes, which, sizes = told.values.double().unique(dim=0, return_inverse=True, return_counts=True)
    two = sizes.argsort(descending=True)[:2].tolist()
    held = [which == k for k in two]
    errors = [told.error[part][0].double() for part in held]
    means = [float(told.facts["score"][part].mean()) + world.label_mean for part in held]
    shared = float(sizes[two].sum()) / len(rows)
    assert r2[100] > r2[TOLD] > r2[1]
    assert all(after >= before - 0.01 for before, after in pairwise(fresh.values()))
    assert shared > 0.95
    gap = (slopes[two[0]] - slopes[two[1]]).abs()
    most = int(gap.argmax())
    sure = float(gap[most] / (errors[0][most] ** 2 + errors[1][most] ** 2).sqrt())
    assert sure > 4
    first, second = (float(slopes[k][most]) for k in two)
    return Drawn(
        _tree(world.features, slopes[two], torch.stack(errors), [int(sizes[k]) for k in two], means, (r2, fresh)),
        f"One line for all patients explains {100 * r2[1]:.0f} % of the variance of the network's answers around "
        f"training rows, {TOLD} lines {100 * r2[TOLD]:.0f} %, one for each of 100 rows {100 * r2[100]:.0f} %. "
        f"{100 * shared:.0f} % of held-out patients follow two of the {TOLD}, drawn at the left; they differ most in "
        f"{world.features[most]} ({first:.0f} against {second:.0f}, {sure:.0f} standard errors).",
        {
            "explained": {str(k): round(v, 4) for k, v in r2.items()},
            "around held-out rows": {str(k): round(v, 4) for k, v in fresh.items()},
        },
    )


def _tree(
    names: Any, slopes: Tensor, errors: Tensor, sizes: list[int], means: list[float], fits: tuple[dict[int, float], ...]
) -> Figure:
    """Two lines' slopes with their errors; and what is explained by so many lines."""
    figure = draw.canvas(8.4, 0.9 + 0.27 * len(names))
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    places = torch.arange(len(names)).flip(0)
    for k, (hue, marker) in enumerate(((HUES[0][0], "o"), (HUES[1][0], "s"))):
        height = (places + 0.14 * (1 - 2 * k)).tolist()
        dots = {"fmt": marker, "color": hue, "markersize": 5, "elinewidth": 1.2, "capsize": 2}
        label = f"{sizes[k]} patients, mean answer {means[k]:.0f}"
        left.errorbar(slopes[k].tolist(), height, xerr=(2 * errors[k]).tolist(), label=label, **dots)
    left.axvline(0, color=draw.INK, linewidth=0.8)
    draw.labels(left.yaxis, places.tolist(), names)
    finish(left, "x", float((slopes - 2 * errors).min()), float((slopes + 2 * errors).max()), "")
    left.xaxis.label.set(
        text="progression per deviation of the column (± 2 standard errors)", fontsize=7.5, color=draw.FAINT
    )
    left.set_ylim(-0.6, len(names) + 0.9)  # room for the legend above the first column
    legend(left)
    for name, fit, (hue, dash), marker in zip(
        ("around training rows", "around held-out rows (median)"), fits, (HUES[1], HUES[0]), "so", strict=False
    ):
        dash = "--" if marker == "o" else dash
        right.plot(list(fit), list(fit.values()), dash, marker=marker, markersize=4.5, color=hue, label=name)
    right.set_xscale("log")
    right.set_ylim(0.6, 1.02)
    finish(right, "y", 0.6, 1.0, "variance explained (R²)")
    right.minorticks_off()
    draw.labels(right.xaxis, list(fits[0]), [str(k) for k in fits[0]], color=draw.FAINT)
    draw.plain(right.xaxis.label).set(text="lines", fontsize=8, color=draw.FAINT)
    legend(right)
    return figure


ENTRIES = (
    *entry("pick", "Rows picked for their explanations", "sp-lime lime", pick),
    *entry("regimes", "Regimes of lines", "dmm-men maple", regimes),
    *entry("groups", "Lines drawn together into a tree", "mame", lines_tree),
)
