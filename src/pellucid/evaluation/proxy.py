"""Does a proxy say what the network says: on the data, near it, everywhere, and near the boundary?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Rules
from pellucid.contract.errors import MethodError, TargetError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.ask import predict
from pellucid.engine.evaluation import NORMAL, Evaluation, Judged, wilson
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole

__all__ = ["ProxyFidelity"]

PLACES = ("inputs", "near", "everywhere")


@dataclass(frozen=True, kw_only=True)
class ProxyFidelity(Evaluation):
    """How often does a proxy (rules, a tree) say what the network says, and where does it not?

    Of rows of three kinds: the ``inputs``; "near", the inputs with noise added; "everywhere", drawn evenly between the
    least and the greatest value of each column. Classes: the share of rows with the same class, with Wilson's 95 %
    interval. One output column, or a ``target``: R² of the proxy's values, ``1 - Σ (f - p)² / Σ (f - mean f)²``, with an
    interval by the standard error of the squared misses. ``values``, of shape (1,), is the fidelity on the ``inputs``.

    `parts`: ``fidelity``, ``low`` and ``high`` (3,), in the order above; ``region`` and ``region_rows`` (regions,), for
    classes: the fidelity on the inputs by the network's margin between its first two classes, from the rows nearest to
    the decision boundary to the surest, in parts of equal size (NaN where a part is empty). Facts: ``near``,
    ``everywhere``; ``chance``, how often two answers would agree that share the class frequencies of proxy and network;
    ``size``, the greatest count in the proxy's `size`. ``source["size"]`` has all of them.

    Args:
        of: the method that makes the proxy.
        noise: standard deviation of the noise near the inputs, as a share of each column's.
        samples: rows "near" and "everywhere".
        regions: parts by margin.

    ``data`` is the held method's. Measure on inputs that the proxy was not fitted to, or its fidelity is flattered.

    Cost: that of ``of``, and 2 ``samples`` forwards.
    Known failure: a proxy may be right wherever the network is sure and wrong at the boundary, where it matters: see
    ``region``. Even draws leave the data where columns go together.
    Source: Craven & Shavlik 1996, §4, fidelity on held-out rows; the regions and intervals are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net, x = torch.nn.Linear(2, 2).eval(), torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> found = px.explain(net, x, px.evaluation.ProxyFidelity(of="cart-c45-surrogate"), data=x)
        >>> bool(found.values > found.facts["chance"])
        True
    """

    of: Any = "cart-c45-surrogate"
    noise: float = 0.1
    samples: int = 1000
    regions: int = 4

    wants: ClassVar[tuple[str, ...]] = ("rules",)
    card: ClassVar[Card] = Card(
        name="proxy-fidelity",
        title="Fidelity of a proxy",
        question="How often does a proxy say what the network says, and where does it not?",
        form="measure",
        scope="global",
        citation="craven1996extracting",
        needs=("predictions", "data", "table"),
        data_types=("table",),
        taxonomy={"002": "evaluation/consistency", "001": "evaluation/fidelity"},
        claims=("seeded",),
        trial={"samples": 20},
        cost="the proxy's, and 2000 forwards",
        supports=("how often proxy and network agree on rows like these, with an interval",),
        limits=("that both agree for the same reasons", "rows unlike those asked about"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(samples=(self.samples, 2), regions=(self.regions, 1))
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float) or not self.noise > 0:
            raise MethodError("The 'noise' must be a number above 0", got=repr(self.noise))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        rules = judged.result
        assert isinstance(rules, Rules)
        table = ask.inputs.tensors[0]
        asked = (table, *self._drawn(table, ask))
        outputs = [predict(subject, Inputs((x,), single=True), ask.memory).reshape(len(x), -1) for x in asked]
        said = [rules.predict(x).to(o.device) for x, o in zip(asked, outputs, strict=True)]
        classes = outputs[0].shape[1] > 1 and ask.wanted is None
        if not classes:
            outputs = [number_of(ask, o)[:, None] for o in outputs]
        judge = _agreement if classes else explained
        figures = torch.stack([judge(p, o) for p, o in zip(said, outputs, strict=True)])
        size = {k: int(v) for k, v in rules.size.items()}
        facts = {name: figures[i, :1] for i, name in enumerate(PLACES) if i}
        facts["chance"] = _chance(said[0], outputs[0])[None] if classes else torch.zeros(1, dtype=torch.float64)
        facts["size"] = torch.tensor([float(max(size.values(), default=0))], dtype=torch.float64)
        parts = dict(zip(("fidelity", "low", "high"), figures.T.contiguous(), strict=True))
        if classes:
            parts |= self._by_margin(said[0], outputs[0])
        return Measure(
            values=figures[0, :1],
            better="higher",
            unit="share of rows" if classes else "R²",
            facts=facts,
            parts=parts,
            source={"size": size},
        )

    def _drawn(self, table: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        """Rows near the inputs, and rows anywhere between their least and greatest values."""
        shape, key = (self.samples, table.shape[1]), [ask.inputs.fingerprint().encode()]
        width = table.std(0, unbiased=False)
        which = torch.arange(self.samples, device=table.device) % len(table)
        near = table[which] + self.noise * width * seed.normal(ask.seed, key, [0], shape, table)[0]
        low, high = table.amin(0), table.amax(0)
        return near, low + (high - low) * seed.uniform(ask.seed, key, [1], shape, table)[0]

    def _by_margin(self, said: Tensor, output: Tensor) -> dict[str, Tensor]:
        top = output.double().topk(2, dim=1).values
        order = (top[:, 0] - top[:, 1]).argsort(stable=True).cpu()
        same = (said == output.argmax(1)).double().cpu()[order]
        parts = same.tensor_split(self.regions)
        return {
            "region": torch.stack([p.mean() for p in parts]),
            "region_rows": torch.tensor([len(p) for p in parts]),
        }


def number_of(ask: Ask, output: Tensor) -> Tensor:
    """The score that the proxy was made for, of every row."""
    target = ask.target
    if target.function is not None or target.index is None:
        return target.score(output)
    if bool((target.index != target.index[0]).any()):
        raise TargetError("The 'target' must be one class for all rows, or None", got="several classes")
    return output[:, int(target.index[0])]


def _agreement(said: Tensor, output: Tensor) -> Tensor:
    """The share of equal classes with Wilson's interval, (3,)."""
    hits = (said == output.argmax(1)).sum().double().cpu()
    return torch.stack([hits / len(said), *wilson(hits, len(said))])


def explained(said: Tensor, output: Tensor) -> Tensor:
    """R² with an interval by the standard error of the squared misses, (3,)."""
    f, p = output[:, 0].double(), said.double().flatten()
    spread = float(((f - f.mean()) ** 2).mean())
    missed = (f - p) ** 2
    if spread == 0:
        found = 1.0 if not bool(missed.any()) else 0.0
        return torch.tensor([found] * 3, dtype=torch.float64)
    error = float(missed.std(unbiased=False)) / math.sqrt(len(f)) / spread
    r2 = 1 - float(missed.mean()) / spread
    return torch.tensor([r2, r2 - NORMAL * error, min(1.0, r2 + NORMAL * error)], dtype=torch.float64)


def _chance(said: Tensor, output: Tensor) -> Tensor:
    """Agreement of independent answers with the class frequencies of both."""
    classes = output.shape[1]
    mine = torch.bincount(said.long().cpu(), minlength=classes)[:classes].double() / len(said)
    theirs = torch.bincount(output.argmax(1).cpu(), minlength=classes).double() / len(said)
    return (mine * theirs).sum()
