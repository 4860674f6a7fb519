"""Figures of what columns do on average, and of games whose shares are known."""

from __future__ import annotations

import math
from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import curves, pairs
from torch import Tensor

import pellucid as px
from pellucid import worlds

ISHIGAMI = (7.0, 0.1)


def effects() -> Drawn:
    """Partial dependence and accumulated local effects where two columns move together."""
    chance = torch.Generator().manual_seed(0)
    first = torch.rand(400, 1, generator=chance, dtype=torch.float64)
    rows = torch.cat([first, first + 0.05 * torch.randn(400, 1, generator=chance, dtype=torch.float64)], 1)

    def truth(x: Tensor) -> Tensor:
        # Off the line on which the data lies the surface rises steeply; on the data it is the first column, squared.
        return x[:, :1] ** 2 + 4 * (x[:, :1] - x[:, 1:]).abs() ** 2

    found = {
        "partial dependence": px.explain(truth, rows, "pdp", data=rows, seed=0),
        "accumulated local effects": px.explain(truth, rows, "accumulated-local-effects", data=rows, seed=0),
    }
    # What the first column does on the data: x², less its mean.
    known = rows[:, 0] ** 2 - (rows[:, 0] ** 2).mean()
    off = {label: float((r.values[:, 0] - known).abs().max()) for label, r in found.items()}
    asked = float(found["partial dependence"].facts["extrapolated"][0])
    assert off["accumulated local effects"] < 0.15 < 0.5 < off["partial dependence"]
    single = px.explain(truth, rows[:25], "ice", data=rows, seed=0)
    lines = {
        label: (r.parts["grid"][0, 0], r.parts["curve"][0, 0], r.parts["curve_error"][0, 0])
        for label, r in found.items()
    }
    order = rows[:, 0].argsort()
    lines["what it does on the data"] = (rows[order, 0], known[order], None)
    behind = [(single.parts["grid"][n, 0], single.parts["curve"][n, 0]) for n in range(25)]
    behind = [(grid, curve - found["partial dependence"].facts["baseline_score"][0]) for grid, curve in behind]
    figure = curves(
        lines, behind, "single rows (ICE)", "the first of two columns that move together", "change of the answer"
    )
    return Drawn(
        figure,
        "The answer is x² on the data, where the second column repeats the first, and rises off it. Partial dependence "
        f"asks about rows that never occur ({100 * asked:.0f} % of those asked) and misses x² by up to "
        f"{off['partial dependence']:.2f}; accumulated local effects by {off['accumulated local effects']:.2f}.",
    )


def sobol() -> Drawn:
    """Shares of the variance of a function whose shares are known."""
    a, b = ISHIGAMI
    box = torch.tensor([[-math.pi] * 3, [math.pi] * 3], dtype=torch.float64)

    def ishigami(x: Tensor) -> Tensor:
        return (torch.sin(x[:, :1]) * (1 + b * x[:, 2:] ** 4)) + a * torch.sin(x[:, 1:2]) ** 2

    found = px.explain(
        ishigami, box[:1], px.attribution.SobolIndices(distribution="uniform", points=4096), data=box, seed=0
    )
    own = (1 + b * math.pi**4 / 5) ** 2 / 2
    second, joint = a**2 / 8, b**2 * math.pi**8 * (1 / 18 - 1 / 50)
    whole = own + second + joint
    known = {
        "first": torch.tensor([own, second, 0.0], dtype=torch.float64) / whole,
        "total": torch.tensor([own + joint, second, joint], dtype=torch.float64) / whole,
    }
    got = {"first": found.parts["first"][0], "total": found.values[0]}
    errors = {"first": found.parts["first_error"][0], "total": found.error[0]}
    apart = max(float((got[k].double() - known[k]).abs().max()) for k in known)
    assert all(bool(((got[k].double() - known[k]).abs() <= 5 * errors[k].double() + 1e-3).all()) for k in known)
    assert abs(float(found.parts["pair"][0, 0, 2]) - joint / whole) < 0.02
    names = [f"x{j + 1}, {kind}" for j in range(3) for kind in ("alone", "with others")]
    measured = torch.stack([got["first"].double(), got["total"].double()], 1).flatten()
    truth = torch.stack([known["first"], known["total"]], 1).flatten()
    spread = torch.stack([errors["first"].double(), errors["total"].double()], 1).flatten()
    figure = pairs(
        names, measured, 2 * spread, truth, "share of the variance of the answers (bars: ± 2 standard errors)"
    )
    return Drawn(
        figure,
        f"On Ishigami's function, whose shares are known in closed form (rings), Sobol' indices lie within {apart:.3f} of "
        f"them. The third column does nothing alone, and {100 * float(known['total'][2]):.0f} % together with the first.",
    )


def games() -> Drawn:
    """Shapley values computed from a game's answers, against its formula."""
    played: dict[str, Any] = {
        "security council": worlds.games.security_council(),
        "airport": worlds.games.airport([1.0, 4.0, 4.0, 9.0, 0.0]),
        "glove": worlds.games.glove(left=2, right=4),
        "synergies": worlds.games.synergies(6, seed=0),
    }
    names: list[str] = []
    got, known, spread = [], [], []
    worst = 0.0
    for title, game in played.items():
        game.eval()
        row = torch.ones(1, game.players, dtype=torch.float64)
        exact = px.explain(game, row, "shapley-value", target=0, seed=0).values[0]
        worst = max(worst, float((exact - game.shapley).abs().max()))
        drawn = px.explain(game, row, px.attribution.ShapleySampling(walks=512), target=0, seed=0)
        assert bool(((drawn.values[0] - game.shapley).abs() <= 5 * drawn.error[0] + 1e-9).all())
        size = float(game.shapley.abs().max())
        chosen = [0, 5] if title == "security council" else range(min(4, game.players))
        for player in chosen:
            names.append(f"{title}, player {player + 1}")
            got.append(float(drawn.values[0, player]) / size)
            known.append(float(game.shapley[player]) / size)
            spread.append(2 * float(drawn.error[0, player]) / size)
    assert worst < 1e-9
    council = played["security council"].shapley
    figure = pairs(
        names,
        torch.tensor(got),
        torch.tensor(spread),
        torch.tensor(known),
        "Shapley value, the game's largest being 1 (± 2 standard errors)",
    )
    return Drawn(
        figure,
        f"Values from 512 walks through random orders (dots), and by formula (rings); exact values from all coalitions "
        f"equal the formulas within {worst:.0e}. In the Security Council a permanent member's vote is worth "
        f"{float(council[0] / council[5]):.0f} times another's.",
    )


ENTRIES = (
    *entry("effects", "Effects of columns", "pdp accumulated-local-effects ice", effects),
    *entry("sobol", "Shares of the variance", "sobol-indices", sobol),
    *entry("games", "Shapley values of games", "shapley-value shapley-sampling", games),
)
