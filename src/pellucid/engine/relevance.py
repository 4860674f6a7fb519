"""What methods that share a score out have in common: the measured books of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.engine.ask import Ask
from pellucid.engine.backward import Score, Shared, share
from pellucid.engine.decomposition import wrap
from pellucid.engine.rules import Table

KINDS = ("bias", "stabiliser", "rule", "gate")


def relevance(
    ask: Ask,
    table: Callable[[], Table],
    label: str,
    *,
    score: Score | None = None,
    form: Callable[[Tensor], Tensor] | None = None,
    denominators: bool = False,
) -> Attribution:
    """Relevance at the explained place, with what was kept on the way, by row in `facts` and by operation in `source`.

    `score` changes the score before it is shared, and `form` the values, keeping their sum; `denominators` adds the
    smallest one of each row to the facts.
    """
    shared = share(ask, table, label, score)
    found, measured = shared.found, books(shared)
    values = tuple(g if form is None else form(g) for g in found.grads)
    source: dict[str, Any] = {"ledger": shared.ledger, "rules": shared.rules}
    if denominators:
        measured["smallest_denominator"] = shared.least
    return Attribution(values=wrap(ask, values), facts=measured, source=source)


def books(shared: Shared) -> dict[str, Tensor]:
    """What came and what was kept, by row: score = relevance_sum + everything absorbed."""
    found = shared.found
    total = torch.stack([g.flatten(1).double().sum(1).cpu() for g in found.grads]).sum(0)
    start = found.score.double().cpu()
    absorbed = {kind: shared.absorbed.get(kind, torch.zeros_like(total)) for kind in KINDS}
    other = [amount for kind, amount in shared.absorbed.items() if kind not in KINDS]
    absorbed["elsewhere"] = torch.stack(other).sum(0) if other else torch.zeros_like(total)
    size = torch.stack([start.abs(), total.abs(), *(amount.abs() for amount in absorbed.values())]).amax(0)
    within = torch.finfo(found.score.dtype).eps ** 0.5 / 10 * size
    return {
        "score": start,
        "relevance_sum": total,
        "conservation_gap": (start - total).abs(),
        "conserved": ((start - total).abs() <= within).double(),
        **{f"absorbed_{kind}": amount for kind, amount in absorbed.items()},
        "ledger_gap": shared.leaks.abs(),
    }
