"""What made the score differ from that of a reference input? Differences sent back, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, difference
from pellucid.engine.ask import predict
from pellucid.engine.data import rows_like
from pellucid.engine.decomposition import gaps, start, wrap
from pellucid.engine.difference import Floats, Shares
from pellucid.engine.rules.cancel import reveal_cancel
from pellucid.engine.rules.contrast import rescale

__all__ = ["DeepLIFT", "DeepSHAP", "RevealCancel"]

TABLES: dict[str, difference.MakeTable] = {"rescale": rescale, "revealcancel": reveal_cancel}
TREES = {
    "000": "behavioural/decision/deeplift",
    "001": "visualization/back-propagation",
    "002": "post-hoc/saliency/relevance",
    "003": "passive/attribution/semi-local",
}
CLAIMS = (
    "rowwise",
    "deterministic",
    "complete",
    "linear",
    "dummy",
    "symmetric",
    "spelling invariant",
    "score scale",
)
LIMITS = (
    "inputs that equal the reference: they get zero whatever they mean",
    "what another network would say that computes the same function by other steps",
)
Baseline = float | str | tuple[float | str, ...]


@dataclass(frozen=True, kw_only=True)
class DeepLIFT(Method):
    """How much did each input's difference from a reference contribute to the difference of the score?

    ``values[i] = m_i (x_i - x'_i)`` in score units, with multipliers m from the chain rule in which each nonlinearity's
    derivative is the slope between reference and input, ``(y - y') / (x - x')`` (Rescale); positive raises the score. The
    values of a row sum to S(x) - S(x'); ``completeness_gap`` is the measured absolute difference, ``relative_gap`` its
    share of |S(x) - S(x')|. Rules belong to operations, so reused, functional and in-place activations count.

    The paper has no rules for what follows; these keep the sum: in products and quotients each factor is multiplied by
    the other's mean over both runs; in max-pooling, what rose goes to this input's winner and what fell to the
    reference's, summed over overlapping windows; softmax and layer norm use their mean derivative on the line between
    the runs. A network that takes another way for the reference (branches, masks, sorting) is refused by name. What a
    detached value changed is nobody's: it stays in the gap, and ``source["ledger"]`` names the place.

    Args:
        baseline: the reference: a number, or "zero", "mean", "blur", "min", "max"; a tuple of them averages over several;
            ``data=`` gives the reference itself. With ``layer=``, what it excites there.
        rule: "rescale", or "revealcancel", which lets what raised and what lowered a unit pass it apart.

    Cost: two forwards and one backward for each reference.
    Known failures: the reference's choice shows in the map; networks that compute the same function by other steps get
    other values; in ``min(a, b) = a - relu(a - b)`` Rescale credits the smaller input alone.
    Source: Shrikumar, Greenside & Kundaje 2017, §3.2-3.5; the form as a modified gradient: Ancona et al. 2018, eq. 3.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double().eval()
        >>> result = px.explain(net, torch.ones(1, 3).double(), "deeplift")
        >>> bool(result.facts["completeness_gap"] < 1e-12)
        True
    """

    baseline: Baseline = 0.0
    rule: str = "rescale"

    card: ClassVar[Card] = Card(
        name="deeplift",
        title="DeepLIFT",
        question="How much did each input's difference from a reference contribute to the difference of the score?",
        form="attribution",
        scope="semi-local",
        citation="shrikumar2017learning",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=CLAIMS,
        cost="2 forwards, 1 backward for each reference",
        supports=("each input's share of the difference to the reference, in saturated networks too",),
        limits=(*LIMITS, "inputs that act only together: one of them may get all, which 'revealcancel' mends"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.rule not in TABLES:
            raise MethodError(f"The 'rule' must be one of {tuple(TABLES)}", got=repr(self.rule))
        return _compared(ask, self.baseline, TABLES[self.rule], self.card.title)


@dataclass(frozen=True, kw_only=True)
class RevealCancel(Method):
    """Which inputs' differences from a reference raised the score, and which lowered it, where they cancel on the way?

    DeepLIFT with, at each nonlinearity y = f(x), the change of x taken apart into the sums Δ⁺ and Δ⁻ of its positive and
    negative contributions, and the change of y shared between them as if each came first or second, in the mean:
    ``Δy⁺ = ½ (f(x' + Δ⁺) - f(x')) + ½ (f(x) - f(x' + Δ⁻))``, and Δy⁻ alike; multipliers ``Δy⁺/Δ⁺`` and ``Δy⁻/Δ⁻``. In
    score units; positive raises the score. The values of a row sum to S(x) - S(x'), measured by ``completeness_gap``.

    Contributions are those to the last weights before the nonlinearity, through biases, batch norms, reshaping and
    additions; where there is none of a sign, its multiplier is the limit for a small one. Nonlinearities that no linear
    operation feeds, and those written in place into a part of a tensor, get the Rescale rule. Products, pooling, softmax
    and norms are treated as in DeepLIFT.

    Args:
        baseline: the reference: a number, or "zero", "mean", "blur", "min", "max"; a tuple of them averages over several;
            ``data=`` gives the reference itself.

    Cost: two forwards and one backward for each reference, and twice the products of weighted layers.
    Known failure: with many inputs of both signs, the order of two groups stands for all orders: no Shapley values.
    Source: Shrikumar, Greenside & Kundaje 2017, §3.5.3.

    Example:
        >>> import torch, pellucid as px
        >>> smaller = lambda x: (x[:, 0] - torch.relu(x[:, 0] - x[:, 1]))[:, None]  # min(a, b)
        >>> class Smaller(torch.nn.Module): forward = staticmethod(smaller)
        >>> px.explain(Smaller().eval(), torch.tensor([[2.0, 1.0]]), "deeplift-revealcancel").values
        tensor([[0.5000, 0.5000]])
    """

    baseline: Baseline = 0.0

    card: ClassVar[Card] = Card(
        name="deeplift-revealcancel",
        title="DeepLIFT, RevealCancel rule",
        question="Which inputs' differences from a reference raised the score, and which lowered it, where they cancel?",
        form="attribution",
        scope="semi-local",
        citation="shrikumar2017learning",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=CLAIMS,
        cost="2 forwards, 1 backward for each reference, weighted layers twice",
        supports=("each input's share of the difference to the reference, where inputs act only together",),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        return _compared(ask, self.baseline, reveal_cancel, self.card.title)


def _compared(ask: Ask, baseline: Baseline, table: difference.MakeTable, label: str) -> Attribution:
    specs: Sequence[float | str] = baseline if isinstance(baseline, tuple | list) else (baseline,)
    if not specs or (ask.data is not None and len(specs) > 1):
        raise MethodError(
            "The 'baseline' must name at least one reference, and one alone where 'data' holds it",
            got=repr(baseline),
            hint="'deep-shap' for a set of references given as data",
        )
    bases = [start(ask, spec) for spec in specs]

    def reference(rows: Tensor, steps: Tensor) -> Floats:
        return tuple(torch.stack(kind)[steps, rows] for kind in zip(*bases, strict=True))

    found = difference.shares(ask, len(bases), reference, table, label=label)
    return _attribution(ask, found, bases[0] if len(bases) == 1 else None)


def _attribution(ask: Ask, found: Shares, base: Floats | None) -> Attribution:
    return Attribution(
        values=wrap(ask, found.values),
        baseline=None if base is None else wrap(ask, base),
        facts=gaps(found.values, found.score, found.reference_score),
        source={"ledger": [asdict(entry) for entry in found.lost]},
    )


@dataclass(frozen=True, kw_only=True)
class DeepSHAP(Method):
    """How much did each input contribute, compared with typical inputs, by DeepLIFT's rules?

    ``values[i]`` is the mean over the background rows x' of DeepLIFT's ``m_i (x_i - x'_i)`` with x' as reference: an
    approximation of Shapley values, in score units; positive raises the score above its mean over the background. The
    values of a row sum to S(x) minus that mean; ``completeness_gap`` is the measured absolute difference. For a linear
    network they are the Shapley values, ``w_i (x_i - mean x'_i)``.

    The background is given as ``data=``. Integer inputs, such as a padding mask, stay those of the row. With ``layer=``,
    references are what the background excites there.

    Cost: two forwards and one backward for each background row.
    Known failures: inputs that act together are not shared out as Shapley values would; a background that differs from
    the data the question is about answers another question.
    Source: Lundberg & Lee 2017, §4.2 (Deep SHAP), with DeepLIFT's Rescale rule and many references.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "deep-shap", data=torch.zeros(5, 3))
        >>> torch.allclose(result.values, net.weight)
        True
    """

    card: ClassVar[Card] = Card(
        name="deep-shap",
        title="Deep SHAP",
        question="How much did each input contribute, compared with typical inputs, by DeepLIFT's rules?",
        form="attribution",
        scope="semi-local",
        citation="lundberg2017unified",
        needs=("gradient", "backward rules", "data"),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/shapley",
            "003": "passive/attribution/local",
        },
        claims=tuple(claim for claim in CLAIMS if claim != "symmetric"),
        cost="2 forwards, 1 backward for each background row",
        supports=("each input's share of the difference to the background's mean score",),
        limits=(
            "inputs outside the background's range",
            "exact Shapley values: interactions follow the network's steps",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        rows = rows_like(ask.data, ask.inputs).inputs
        background = rows.floats if ask.layer is None else (predict(subject, rows, ask.memory, ask.layer),)
        pick: Callable[[Tensor, Tensor], Floats] = lambda row, step: tuple(b[step] for b in background)  # noqa: E731
        found = difference.shares(ask, rows.rows, pick, label=self.card.title)
        return _attribution(ask, found, None)
