"""Which logic imitates the network? The tree drawn, or the rules as sentences; and the same in words."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from pellucid.contract import Rules
from pellucid.show import draw, tree
from pellucid.show.facts import card_of, title_of, verdicts
from pellucid.show.options import Options
from pellucid.show.tree import Branch
from pellucid.show.words import Account, clean, counted, percent

LEAVES, SENTENCES, WIDTH, LISTED = 16, 24, 96, 500
MARK, PALE = "#b35c00", "#9aa3b2"


def figure(result: Rules, wanted: Options) -> Figure:
    """The tree with root at the left, and the way of one row where `row` names it; sentences for other structures."""
    head = f"{title_of(result)}: agrees with the network in {percent(result.fidelity)}"
    if tree.is_tree(result.structure):
        whole = _tree(result, wanted)
    else:
        whole = _sentences(result, wanted)
    draw.head(whole, wanted.headed, head if math.isfinite(result.fidelity) else title_of(result))
    return whole


def row_of(result: Rules, row: int | None) -> Tensor | None:
    """The input row whose way is marked, where it is known."""
    given = result.context.inputs
    return given[row] if row is not None and isinstance(given, Tensor) and 0 <= row < given.shape[0] else None


def _tree(result: Rules, wanted: Options) -> Figure:
    root = tree.lay_out(
        result.structure, result.context.features, result.context.classes, LEAVES, row_of(result, wanted.row)
    )
    branches = list(root.walk())
    leaves, depth = [b for b in branches if not b.children], max(b.depth for b in branches)
    whole = draw.canvas(2.0 * (depth + 1) + 1.2, 0.75 + 0.32 * max(len(leaves), 3))
    axes = whole.subplots()
    axes.axis("off")
    for branch in sorted(branches, key=lambda b: b.marked):
        _branch(axes, branch)
    axes.set_xlim(-0.05, depth + 0.85)
    axes.set_ylim(max(len(leaves), 3) - 0.4, -0.6)
    size = ", ".join(f"{clean(k)} {v}" for k, v in result.size.items())
    marked = "; the orange way is the chosen row's" if any(b.marked for b in branches) else ""
    draw.foot(whole, f"the upper branch holds where the value is at most the bound; {size}{marked}")
    return whole


def _branch(axes: Any, branch: Branch) -> None:
    hue, width = (MARK, 2.0) if branch.marked else (PALE, 0.9)
    for child in branch.children:
        lit = child.marked
        axes.plot(
            [branch.depth, branch.depth + 0.72, branch.depth + 0.84, child.depth],
            [branch.line, branch.line, child.line, child.line],
            color=MARK if lit else PALE,
            linewidth=2.0 if lit else 0.9,
            zorder=2 if lit else 1,
            solid_joinstyle="round",
        )
    if branch.children:
        box = {"boxstyle": "round,pad=0.32", "fc": "#f4f5f8", "ec": hue, "lw": width}
        text = f"{clean(branch.test, 20)} ≤ {branch.bound}?"
        draw.note(axes, branch.depth, branch.line, text, va="center", fontsize=7.5, bbox=box, zorder=3, longest=40)
    else:
        weight = "bold" if branch.marked else "normal"
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
        text = tree.leaf_words(branch)
        draw.note(
            axes,
            branch.depth,
            branch.line,
            text,
            va="center",
            fontsize=8,
            fontweight=weight,
            bbox=box,
            zorder=3,
            longest=44,
        )


def _sentences(result: Rules, wanted: Options) -> Figure:
    lines = [
        line for s in result.text[:SENTENCES] for line in textwrap.wrap(clean(s, 400), WIDTH, subsequent_indent="    ")
    ]
    hidden = len(result.text) - SENTENCES
    lines = lines or ["There is no rule."]
    whole = draw.canvas(7.6, 0.7 + 0.21 * len(lines))
    axes = whole.subplots()
    axes.axis("off")
    axes.set_ylim(len(lines), 0)
    for position, line in enumerate(lines):
        draw.note(axes, 0, position + 0.5, line, va="center", fontsize=8, longest=WIDTH + 4)
    if hidden > 0:
        draw.foot(whole, f"{counted(hidden, 'more rule')} not drawn")
    return whole


def account(result: Rules, wanted: Options) -> Account:
    """The result in plain words."""
    card, size = card_of(result), result.size
    count = size.get("rules", size.get("leaves", len(result.text)))
    told = f"{counted(count, 'rule')} {'tries' if count == 1 else 'try'} to imitate the network"
    known = f", and {'gives' if count == 1 else 'give'} its answer in {percent(result.fidelity)} of cases"
    facts = {k: v for k, v in result.facts.items() if "fidelity" not in k}
    judged = verdicts({**facts, "fidelity": _figure(result)} if math.isfinite(result.fidelity) else facts)
    return Account(
        asked=card.question if card else "Which logic imitates the network?",
        mattered=(f"{told}{known if math.isfinite(result.fidelity) else ''}.{_budgeted(result)}",),
        listing=tuple(clean(s, 400) for s in result.text[:LISTED]),
        believed=tuple(v.long for v in judged),
        supports=card.supports if card else (),
        cannot=card.limits if card else (),
    )


def _budgeted(result: Rules) -> str:
    """What keeping to a budget did to the rules, where one was set, and what it cost."""
    lost, before = (result.facts.get(name) for name in ("fidelity_lost", "literals_before"))
    note = result.source.get("control")
    if lost is None or before is None or not isinstance(note, dict) or note.get("excess") == "within":
        return ""
    done = "summed up" if note.get("excess") == "summarise" else "pruned"
    points = 100 * float(lost[0])
    cost = "which cost no agreement" if abs(points) < 0.05 else f"which changed the agreement by {-points:+.1f} points"
    tests = f"from {counted(round(float(before[0])), 'test')} in all to {result.size.get('conditions', 0)}"
    return f" They were {done} to fit a budget, {tests}, {cost}."


def _figure(result: Rules) -> Any:
    import torch

    return torch.tensor([float(result.fidelity)])


def alt(result: Rules, wanted: Options) -> str:
    """What the figure shows, for those who can't see it."""
    told = account(result, wanted)
    return f"{title_of(result)}. {told.mattered[0]} {' '.join(told.believed)}"


def sums(result: Rules) -> list[dict[str, str]]:
    """Size and fidelity, for engineers."""
    return [{"fidelity": percent(result.fidelity), **{clean(k): str(v) for k, v in result.size.items()}}]
