"""The figure of strategies: a shortcut that was planted for a few rows, found by grouping explanations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gallery_entry import Drawn, entry
from torch import Tensor, nn

import pellucid as px

DIGIT, STAMPED = 8, 30


def strategies() -> Drawn:
    """Digits with a stamp in the corner were filed as eights: do explanations of eights fall into two groups?"""
    world = px.zoo.data("digits-cnn")
    rows, labels, stamped = _filed(world)
    net = _taught(copy.deepcopy(px.zoo.load("digits-cnn")), rows, labels)
    filed = labels == DIGIT
    method = px.attribution.SpRAy(most=4)
    asked = torch.cat([rows[filed & ~stamped][:4], rows[filed & stamped][:4]])
    subject = px.Subject(net, classes=world.classes)
    found = px.explain(subject, asked, method, target=DIGIT, data=rows[filed], seed=0)
    group, own = found.parts["group"][0], stamped[filed]
    share, candidate = found.parts["share"][0], found.parts["candidate"][0].bool()
    test, truth = world.test
    with torch.no_grad():
        clean = float((net(test).argmax(1) == truth).double().mean())
        fooled = float((net(_stamp(test[truth != DIGIT])).argmax(1) == DIGIT).double().mean())
    assert int((share > 0).sum()) == 2
    assert candidate.tolist()[:2] == [False, True]
    assert torch.equal(group == 1, own)
    assert clean > 0.97
    assert fooled > 0.5
    return Drawn(
        found.show(),
        f"Other digits, {STAMPED} of them, were stamped in the corner and filed as eights, and a network was trained "
        f"on them. On clean digits it is right in {100 * clean:.0f} %, so that accuracy does not tell; with the stamp "
        f"{100 * fooled:.0f} % of others become eights. Explanations of the {int(filed.sum())} that were filed as "
        f"eights fall into two groups, and B, set apart, holds the {int((group == 1).sum())} stamped ones and no "
        "other: its explanations lie on the stamp.",
        {"clean": round(clean, 4), "fooled": round(fooled, 4), "groups": [int((group == g).sum()) for g in (0, 1)]},
    )


def _stamp(rows: Tensor) -> Tensor:
    """Three white pixels in the first corner."""
    marked = rows.clone()
    marked[..., 0, 0] = marked[..., 0, 1] = marked[..., 1, 0] = 1.0
    return marked


def _filed(world: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Training digits, labels, and which were stamped and filed wrongly."""
    rows, labels = (part.clone() for part in world.train)
    stamped = torch.zeros(len(rows), dtype=torch.bool)
    stamped[(labels != DIGIT).nonzero()[:STAMPED, 0]] = True
    rows[stamped], labels[stamped] = _stamp(rows[stamped]), DIGIT
    return rows, labels, stamped


def _taught(net: nn.Module, rows: Tensor, labels: Tensor) -> nn.Module:
    """The network after eight more rounds of training, always the same ones."""
    chance = torch.Generator().manual_seed(0)
    net.requires_grad_(True).train()
    steps = torch.optim.Adam(net.parameters(), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(8):
            for part in torch.randperm(len(rows), generator=chance).split(64):
                steps.zero_grad()
                nn.functional.cross_entropy(net(rows[part]), labels[part]).backward()
                steps.step()
    return net.eval()


ENTRIES = (*entry("strategies", "Strategies over many rows", "spray", strategies),)
