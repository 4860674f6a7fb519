"""Discoveries whose answer is planted: a law and a motif, read off networks that were trained on simulated data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import ORANGE
from matplotlib.figure import Figure
from torch import Tensor, nn

import pellucid as px
from pellucid.show import draw
from pellucid.show.curves import COLOURS
from pellucid.zoo.training import own_surroundings

REPLICAS = 6
# The law: force = 2 · mass · mass' / distance². Temperature follows the first mass and does nothing; the day is noise.
COLUMNS = ("mass", "other mass", "distance", "temperature", "day")
EXPONENTS = (1.0, 1.0, -2.0, 0.0, 0.0)
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "power": torch.log,
    "exponential": lambda x: x,
    "of 1/x": lambda x: 1 / x,
}
LETTERS, MOTIF, DECOY, LENGTH = "ACGT", "TGACTCA", "GGGCGGG", 60
FLANK, CLEAR = 3, 0.5  # letters read on each side of a window; bits above which a place belongs to the motif


def law() -> Drawn:
    """Exponents of a law of force, each with an interval over networks that saw different data."""
    slopes, forms, additive, curves = [], [], [], []
    for seed in range(REPLICAS):
        rows, answers = measurements(seed)
        model = fitted(nn.Sequential(nn.Linear(5, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1)), rows,
                       answers, seed, nn.functional.mse_loss, steps=600)  # fmt: skip
        found = px.explain(model, rows, px.attribution.AccumulatedLocalEffects(points=12), data=rows, seed=0)
        effect = found.values.double()
        agree = {name: _agreement(form(rows.double()), effect) for name, form in FORMS.items()}
        slopes.append(agree["power"][0])
        forms.append({name: told[1] for name, told in agree.items()})
        additive.append(float(found.facts["additive_share"][0]))
        curves.append((found.parts["grid"][0].double(), found.parts["curve"][0].double()))
    exponents = torch.stack(slopes)
    mean, wide = exponents.mean(0), 2.571 * exponents.std(0) / math.sqrt(REPLICAS)  # Student's quantile of five
    best = [{max(FORMS, key=lambda name: float(told[name][j])) for told in forms} for j in range(3)]
    planted = torch.tensor(EXPONENTS, dtype=torch.float64)
    off = float((mean - planted).abs().max())
    assert off < 0.03, mean
    assert (wide < 0.1).all(), wide
    assert best == [{"power"}] * 3
    assert min(additive) > 0.99
    told = ", ".join(
        f"{name} {float(m):z.3f} ± {float(w):.3f}".replace("-", "−")
        for name, m, w in zip(COLUMNS, mean, wide, strict=True)
    )
    least = max(float(sorted(told[name][j] for name in FORMS)[1]) for told in forms for j in range(3))
    own = min(float(told["power"][j]) for told in forms for j in range(3))
    missed = [name for name, m, w, p in zip(COLUMNS, mean, wide, planted, strict=True) if abs(m - p) > w]
    shared = f" (that of {', '.join(missed)} by what all networks share, which no interval over them tells)"
    sentence = (
        f"Planted was force = 2 · mass · other mass / distance². In {REPLICAS} networks, each trained on data of its own, "
        f"effects of single columns make up {100 * min(additive):.2f} % or more of the variance of ln(force): the law is a "
        f"product. Each effect is best told by a power (R² {own:.3f} or more; of the other forms tried, {least:.3f} or "
        f"less), with exponents {told} (95 % over networks), within {off:.3f} of those planted{shared if missed else ''}. "
        "Temperature goes along with the mass and gets no part."
    )
    numbers = {"exponents": mean.tolist(), "half width": wide.tolist(), "additive share": min(additive)}
    return Drawn(_law_figure(curves, rows, mean, wide), sentence, numbers)


def measurements(seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the simulated experiment, and the logarithm of the force, with an error of a tenth."""
    chance = torch.Generator().manual_seed(100 + seed)
    uniform = torch.rand(1500, 5, generator=chance)
    rows = torch.stack(
        [1 + 4 * uniform[:, 0], 1 + 4 * uniform[:, 1], 1 + 3 * uniform[:, 2], uniform[:, 3], uniform[:, 4]], 1
    )
    rows[:, 3] = rows[:, 0] + 2 * uniform[:, 3]
    rows[:, 4] = 1 + 4 * uniform[:, 4]
    answers = math.log(2) + rows[:, 0].log() + rows[:, 1].log() - 2 * rows[:, 2].log()
    return rows, (answers + 0.1 * torch.randn(1500, generator=chance))[:, None]


def fitted(model: nn.Module, rows: Tensor, answers: Tensor, seed: int, loss: Any, steps: int) -> nn.Module:
    """A network trained on rows, from weights of its own."""
    with own_surroundings(seed):
        for part in model.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        optimiser = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=steps)
        for _ in range(steps):
            drawn = torch.randint(len(rows), (256,))
            optimiser.zero_grad(set_to_none=True)
            loss(model(rows[drawn]), answers[drawn]).backward()
            optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def _agreement(form: Tensor, effect: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of each column's effect along the form, and the squared correlation of the two."""
    form, effect = form - form.mean(0), effect - effect.mean(0)
    joint = (form * effect).sum(0)
    return joint / form.square().sum(0), joint.square() / (form.square().sum(0) * effect.square().sum(0))


def _law_figure(curves: list[tuple[Tensor, Tensor]], rows: Tensor, mean: Tensor, wide: Tensor) -> Figure:
    figure = draw.canvas(8.4, 2.3)
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    for j, (axes, name) in enumerate(zip(panels, COLUMNS, strict=True)):
        for k, (grid, curve) in enumerate(curves):
            own = grid[j].isfinite() & curve[j].isfinite()
            axes.plot(grid[j][own].log().tolist(), curve[j][own].tolist(), color="#8a94a6", linewidth=0.8,
                      label="networks" if not (j or k) else None)  # fmt: skip
        x = torch.linspace(*curves[0][0][j][curves[0][0][j].isfinite()].log()[[0, -1]].tolist(), 30)
        middle = float(rows[:, j].log().mean())
        axes.plot(x.tolist(), (EXPONENTS[j] * (x - middle)).tolist(), ":", color=ORANGE, linewidth=2,
                  label="planted" if not j else None)  # fmt: skip
        draw.title(axes, name, f"{float(mean[j]):z.2f} ± {float(wide[j]):.2f}".replace("-", "−"), size=8)
        draw.numbers(axes.xaxis, float(x[0]), float(x[-1]), 3)
        draw.plain(axes.xaxis.label).set(text=f"ln({name})", fontsize=7, color=draw.FAINT)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=2, color=draw.FAINT)
    draw.numbers(panels[0].yaxis, -2, 2)
    draw.plain(panels[0].yaxis.label).set(text="effect on ln(force)", fontsize=7, color=draw.FAINT)
    for text in panels[-1].legend(*panels[0].get_legend_handles_labels(), fontsize=7, frameon=False).get_texts():
        draw.plain(text)
    return figure


def motif() -> Drawn:
    """A motif read off attributions of networks for sequences; another one that stands in both classes must not be."""
    logos, found, right = [], [], []
    for seed in range(REPLICAS):
        inputs, labels = sequences(seed, 1600)
        model = fitted(_Scanner(), inputs, labels, seed, nn.functional.cross_entropy, steps=250)
        fresh, known = sequences(1000 + seed, 400)
        right.append(float((model(fresh).argmax(1) == known).double().mean()))
        bound = fresh[(known == 1) & (model(fresh).argmax(1) == 1)][:100]
        logos.append(_logo(bound, _attributed(model, bound)))
        found.append(_consensus(logos[-1]))
    inputs, labels = sequences(0, 1600)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    lost = fitted(_Scanner(), inputs, labels[order], 0, nn.functional.cross_entropy, steps=250)
    bound = inputs[(labels == 1) & (lost(inputs).argmax(1) == 1)][:100]
    control = _logo(bound, _attributed(lost, bound))
    assert found == [MOTIF] * REPLICAS, found
    assert MOTIF not in _consensus(control)
    assert min(right) > 0.75
    clear = [float(_bits(logo)[k]) for logo in logos for k in range(FLANK, FLANK + len(MOTIF))]
    low, high = 100 * min(right), 100 * max(right)
    sentence = (
        f"Planted was {MOTIF} in one of two classes of sequences, and {DECOY} as often in both, each letter changed one "
        f"time in ten. Of {REPLICAS} networks, each with data of its own ({low:.0f} to {high:.0f} % right on fresh "
        f"sequences), the windows of letters to which most is attributed spell {MOTIF} every time, each letter with "
        f"{min(clear):.1f} bits or more of 2, and never the other. A network trained on shuffled labels does not."
    )
    numbers = {"read": found, "right": right, "shuffled": _consensus(control)}
    return Drawn(_logo_figure(torch.stack(logos).mean(0), control), sentence, numbers)


def _attributed(model: nn.Module, bound: Tensor) -> Tensor:
    """What each letter that is there adds to the margin of class 1, (N, length), from a sequence of no letters."""
    method = px.attribution.IntegratedGradients(steps=32)
    return px.explain(model, bound, method, target=px.margin(1, 0), seed=0).values.sum(1)


class _Scanner(nn.Module):
    """Filters along a sequence (N, 4, length), each at its strongest place, and a line through them."""

    def __init__(self) -> None:
        super().__init__()
        self.scan = nn.Conv1d(4, 16, 11)
        self.head = nn.Linear(16, 2)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(torch.relu(self.scan(sequence)).amax(2))


def sequences(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Letters as (N, 4, length): class 1 holds the motif somewhere, a tenth of its letters changed; both the decoy."""
    chance = torch.Generator().manual_seed(seed)
    letters = torch.randint(4, (count, LENGTH), generator=chance)
    labels = torch.randint(2, (count,), generator=chance)
    places = torch.stack([torch.randperm(LENGTH // 10, generator=chance)[:2] for _ in range(count)]) * 10
    places = places + torch.randint(3, places.shape, generator=chance)
    for word, where, planted in ((MOTIF, places[:, 0], labels == 1), (DECOY, places[:, 1], labels >= 0)):
        code = torch.tensor([LETTERS.index(c) for c in word])
        at = where[:, None] + torch.arange(len(word))
        kept = planted[:, None] & (torch.rand(at.shape, generator=chance) >= 0.1)
        letters.scatter_(1, at, torch.where(kept, code.expand_as(at), letters.gather(1, at)))
    return nn.functional.one_hot(letters, 4).transpose(1, 2).float(), labels


def _logo(inputs: Tensor, values: Tensor) -> Tensor:
    """Shares of letters (4, width + 2 flanks) around the strongest window of each sequence, shifted onto each other."""
    width = len(MOTIF)
    padded = nn.functional.pad(inputs, (2 * FLANK, 2 * FLANK))
    at = values.unfold(1, width, 1).sum(2).argmax(1)
    offsets = torch.arange(width + 2 * FLANK)

    def cut(start: Tensor) -> Tensor:
        return padded.gather(2, (start[:, None] + FLANK + offsets)[:, None].expand(-1, 4, -1))

    windows = cut(at)
    for _ in range(10):  # each window is moved by up to the flank to where it agrees best with the mean of all
        mean = windows.mean(0) - 0.25
        shifts = torch.stack(
            [(cut((at + s).clamp(-FLANK, LENGTH - width + FLANK)) * mean).sum((1, 2)) for s in (-1, 0, 1)], 1
        )
        at = (at + shifts.argmax(1) - 1).clamp(-FLANK, LENGTH - width + FLANK)
        windows = cut(at)
    return windows.mean(0).double()


def _bits(logo: Tensor) -> Tensor:
    share = logo / logo.sum(0, keepdim=True)
    return 2 + (share * share.clamp_min(1e-9).log2()).sum(0)


def _consensus(logo: Tensor) -> str:
    """The commonest letter at each place that is clear."""
    clear = (_bits(logo) > CLEAR).nonzero().flatten().tolist()
    return "".join(LETTERS[int(logo[:, k].argmax())] for k in range(clear[0], clear[-1] + 1)) if clear else ""


def _logo_figure(logo: Tensor, control: Tensor) -> Figure:
    """Letters as high as their share of the place's bits, the commonest on top."""
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    figure = draw.canvas(7.0, 2.2)
    for axes, told, name in zip(figure.subplots(1, 2, sharey=True), (logo, control), ("trained on the labels",
                                "trained on shuffled labels"), strict=True):  # fmt: skip
        heights = (_bits(told) * told / told.sum(0)).clamp_min(0)
        for place in range(heights.shape[1]):
            base = 0.0
            for k in heights[:, place].argsort().tolist():
                height = float(heights[k, place])
                glyph = TextPath((0, 0), LETTERS[k], size=1, prop={"family": draw.FONT, "weight": "bold"})
                box = glyph.get_extents()
                if height > 0.01:
                    fit = Affine2D().translate(-box.x0, -box.y0).scale(0.9 / box.width, height / box.height)
                    moved = fit.translate(place + 0.55, base).transform_path(glyph)
                    axes.add_patch(PathPatch(moved, facecolor=COLOURS[k], linewidth=0))
                base += height
        axes.set_xlim(0.4, heights.shape[1] + 0.6)
        axes.set_ylim(0, 2)
        draw.title(axes, name, size=8.5)
        draw.numbers(axes.xaxis, 1, heights.shape[1], 4)
        draw.plain(axes.xaxis.label).set(text="place around the strongest window", fontsize=8, color=draw.FAINT)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=2, color=draw.FAINT)
        if told is logo:
            draw.numbers(axes.yaxis, 0, 2)
            draw.plain(axes.yaxis.label).set(text="bits", fontsize=8, color=draw.FAINT)
    return figure


ENTRIES = (
    *entry("discovery-law", "A law found again", "accumulated-local-effects", law),
    *entry("discovery-motif", "A motif found again", "integrated-gradients", motif),
)
