"""Which axioms does a method keep on this very network? Each tried with a network or an input where it can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Explanation, Measure, tensors
from pellucid.contract.errors import InputError, MethodError, NumericalError, PellucidError
from pellucid.engine import Ask, Subject
from pellucid.engine.decomposition import start
from pellucid.engine.evaluation import Evaluation, Judged, overall, replace_model
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.engine.subject import as_subject
from pellucid.evaluation import axiom_pairs
from pellucid.evaluation.completeness import Completeness

__all__ = ["AxiomTable"]

AXIOMS = ("completeness", "sensitivity", "dummy", "symmetry", "linearity", "implementation")
ROUNDING = 1e-5  # of two scores, or of the largest value: no more than this is no change, or zero


class Skip(Exception):
    """Why an axiom can't be tried here."""


@dataclass(frozen=True, kw_only=True)
class AxiomTable(Evaluation):
    """Which axioms does the method keep on this network and these inputs, and by how much does it miss the others?

    ``values`` is the share of the axioms tried that a row's explanation keeps. Each axiom has a gap (rows,), and is kept
    where the gap is at most ``tolerance``:

    - ``completeness``: |Σ A - (S(x) - S(x'))| as a share of the change, see `Completeness`;
    - ``sensitivity``, (a): of inputs that differ from the baseline in one value alone (``tries`` of the row's own, those
      furthest from the baseline) and in the score, the share in which this value gets nothing;
    - ``dummy``, sensitivity (b): an input is added that the network never reads: the largest value that it gets;
    - ``symmetry``: every input comes twice and the network reads the mean of both: how far twins' values are apart;
    - ``linearity``: how far the explanation of 2 f - 3 g is from 2 A(f) - 3 A(g), for the outputs f = 0 and g = 1;
    - ``implementation``: how far the explanation is from that of networks that compute the same: every hidden unit split
      in two that partly cancel and in another order, batch norm folded, a way in that takes each value apart, and what
      ``data={"model": other}`` gives. Those whose scores are not the same are not tried, but ``other`` is refused.

    The last four are shares of the row's largest value. Random draws are those of the same seed and row.

    Facts: the gap of each axiom that was tried; NaN where a row could not. `parts`: ``gaps`` and ``kept``
    (rows, axioms), columns as in ``source["axioms"]``; ``implementation`` (rows, networks) as ``source["networks"]``.
    ``source["table"]`` has each axiom's largest gap, mean and share of rows that keep it; ``source["not tried"]`` says why.

    Args:
        of: the explanation that is measured: a method or its name.
        tries: values tried one by one for sensitivity.
        baseline: x' for methods that tell none: a number, or "zero", "mean", "blur", "min", "max".
        tolerance: up to which gap an axiom counts as kept.

    Cost: about ``tries`` + 9 explanations.
    Known failure: that an axiom is kept on these rows does not prove that it holds; that it is missed does prove that it
    fails. Methods that sample miss it by their noise. Dummy and symmetry are tried where a value stands for itself: not
    for features of several values.
    Source: Sundararajan, Taly & Yan 2017, §2, §3 and appendix B; symmetry and linearity: Shapley 1953.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2, bias=False).double().eval()
        >>> found = px.explain(net, torch.ones(1, 3).double(), px.evaluation.AxiomTable(of="gradient-x-input"))
        >>> found.values.item(), found.source["axioms"][0]
        (1.0, 'completeness')
    """

    tries: int = 8
    baseline: float | str = 0.0
    tolerance: float = 0.01

    own: ClassVar[tuple[str, ...]] = ("model",)
    card: ClassVar[Card] = Card(
        name="attribution-axiom-tests",
        title="Axioms of attributions",
        question="Which axioms does the method keep on this network, and by how much does it miss the others?",
        form="measure",
        scope="local",
        citation="sundararajan2017axiomatic",
        covers=("axiom-sensitivity", "axiom-implementation-invariance"),
        needs=("predictions",),
        taxonomy={
            "001": "evaluation/sensitivity",
            "002": "post-hoc/saliency/evaluation",
            "003": "passive/attribution/evaluation",
        },
        claims=("rowwise", "deterministic"),
        trial={"of": "feature-ablation", "tries": 2},
        cost="17 explanations",
        supports=("that an axiom fails on this network, where its gap is large",),
        limits=("that an axiom holds for other networks or inputs", "which axioms an explanation ought to keep"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(tries=(self.tries, 1))
        value = self.tolerance
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise MethodError("The 'tolerance' must be a number of at least 0", got=repr(value))
        if ask.layer is not None or ask.unit_place is not None:
            raise MethodError(
                "The axioms need explanations of the output by the inputs", got=str(ask.layer or ask.unit_place)
            )
        if not ask.inputs.explained:
            kinds = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
            raise InputError("The 'inputs' must have a floating tensor", got=kinds)
        start(replace(ask, data=None), self.baseline)
        if own.get("model") is not None:
            as_subject(own["model"])

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        networks = self.networks(subject, ask, judged)
        skipped: dict[str, str] = {}
        trials: dict[str, Callable[[], Tensor]] = {
            "completeness": lambda: Completeness(of=self.of).measure(subject, ask, judged).values,
            "sensitivity": lambda: self.sensitivity(judged),
            "dummy": lambda: dummy(judged),
            "symmetry": lambda: symmetry(judged),
            "linearity": lambda: linearity(judged),
        }
        gaps = {name: attempt(trial, name, skipped) for name, trial in trials.items()}
        ways = {name: attempt(partial(against, judged, other), name, skipped) for name, other in networks.items()}
        tried = {name: gap for name, gap in ways.items() if gap is not None}
        gaps["implementation"] = torch.stack([*tried.values()], 1).amax(1) if tried else None
        found = {name: gaps[name] for name in AXIOMS if gaps[name] is not None}
        return self.told(found, tried, skipped)  # type: ignore[arg-type]

    def told(self, found: dict[str, Tensor], tried: dict[str, Tensor], skipped: dict[str, str]) -> Measure:
        """The table."""
        if not found:
            raise MethodError("No axiom can be tried of the method 'of' on these inputs", got=str(skipped))
        stacked = torch.stack([*found.values()], 1)
        kept = torch.where(stacked.isnan(), float("nan"), (stacked <= self.tolerance).double())
        table = {}
        for name, column, passed in zip(found, stacked.T, kept.T, strict=True):
            good, finite = passed[~passed.isnan()], column[column.isfinite()]
            summary = overall(column)
            table[name] = {
                "largest": float(finite.max()) if len(finite) else None,
                "mean": summary["mean"],
                "kept": float(good.mean()) if len(good) else None,
                "excluded": summary["excluded"],
            }
        source = {"axioms": list(found), "table": table, "networks": list(tried), "not tried": skipped}
        parts = {"gaps": stacked, "kept": kept}
        parts |= {"implementation": torch.stack([*tried.values()], 1)} if tried else {}
        return Measure(
            values=kept.nanmean(1), better="higher", unit="share of axioms", facts=found, parts=parts, source=source
        )

    def networks(self, subject: Subject, ask: Ask, judged: Judged) -> dict[str, Subject]:
        """Those that compute the same, by name."""
        found = {
            k: s for k, s in axiom_pairs.equals(subject).items() if axiom_pairs.agree(judged.ask, s) <= axiom_pairs.SAME
        }
        given = self.split(ask.data)[0].get("model")
        if given is not None:
            other = given if isinstance(given, Subject) else replace_model(subject, given)
            if (gap := axiom_pairs.agree(judged.ask, other)) > axiom_pairs.SAME:
                raise NumericalError("The other 'model' must compute the same function", got=f"scores {gap:.3g} apart")
            found["the other model"] = other
        return found

    def sensitivity(self, judged: Judged) -> Tensor:
        """Of single differences that change the score, the share whose value gets nothing."""
        ask, result = judged.ask, judged.result
        assert isinstance(result, Attribution)
        spec = (
            tensors(result.baseline) if result.baseline is not None else start(replace(ask, data=None), self.baseline)
        )
        ends, base = ask.inputs.floats, tuple(b.expand_as(x) for b, x in zip(spec, ask.inputs.floats, strict=True))
        shaped(result, ask.inputs)
        flat, zero = flatten(ends), flatten(base)
        count = min(self.tries, flat.shape[1])
        chosen = (flat - zero).abs().argsort(dim=1, descending=True, stable=True)[:, :count].flatten()
        rows = torch.arange(ask.inputs.rows).repeat_interleave(count)
        points = zero[rows]
        line = torch.arange(len(rows), device=points.device)
        points[line, chosen] = flat[rows.to(line.device), chosen]
        asked = ask.derived(ask.inputs.take(rows).with_floats(shape_like(points, ends)), rows, passes=len(rows))
        said = judged.method.explain(judged.subject, asked, judged.state)
        assert isinstance(said, Attribution)
        score = asked.score.double().cpu()
        ground = ask.derived(ask.inputs.take(rows).with_floats(shape_like(zero[rows], ends)), rows).score.double().cpu()
        moves = (score - ground).abs() > ROUNDING * (score.abs() + ground.abs())
        if said.baseline is not None:  # a baseline made of the input itself may differ in more than the one value
            other = flatten(
                tuple(b.expand_as(x) for b, x in zip(tensors(said.baseline), asked.inputs.floats, strict=True))
            )
            moves &= ((other != points).sum(1) == 1).cpu()
        sizes = flatten(tuple(tensors(said.values))).double().abs().cpu()
        missed = sizes.gather(1, chosen.cpu()[:, None])[:, 0] <= ROUNDING * sizes.amax(1)
        total = moves.reshape(-1, count).sum(1)
        return (moves & missed).reshape(-1, count).sum(1).double() / torch.where(
            total > 0, total.double(), float("nan")
        )


def attempt(trial: Callable[[], Tensor], name: str, skipped: dict[str, str]) -> Tensor | None:
    """The gap, or None where the axiom can't be tried or the method refuses the changed question."""
    try:
        return trial()
    except (Skip, PellucidError) as reason:
        skipped[name] = str(reason)
        return None


def dummy(judged: Judged) -> Tensor:
    """The largest value of an input that is added and never read."""
    x = lone(judged)
    count = x.shape[1]
    added = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    values = changed(judged, added, lambda v: v[:, :count])
    return share(values[:, count:], values)


def symmetry(judged: Judged) -> Tensor:
    """How far the values of twins are apart, where every input comes twice and their mean is read."""
    x = lone(judged)
    count = x.shape[1]
    values = changed(judged, torch.cat([x, x], 1), lambda v: (v[:, :count] + v[:, count:]) / 2)
    return share(values[:, :count] - values[:, count:], values)


def linearity(judged: Judged) -> Tensor:
    """How far the explanation of a weighted sum of two outputs is from the weighted sum of theirs."""
    judged.ask.score  # noqa: B018  (asks for the output where it is not known yet)
    output = judged.ask.output
    if output is None or output.dim() != 2 or output.shape[1] < 2:
        raise Skip("the model has no two outputs")

    def said(target: Callable[[Tensor], Tensor]) -> Tensor:
        asked = replace(judged.ask, wanted=target, output=None, _target=None)
        return side(judged.method.explain(judged.subject, asked, judged.method.prepare(judged.subject, asked)))

    first, second = 2 * said(lambda y: y[:, 0]), -3 * said(lambda y: y[:, 1])
    both = said(lambda y: 2 * y[:, 0] - 3 * y[:, 1])
    return share(both - first - second, torch.cat([both, first, second], 1))


def against(judged: Judged, other: Subject) -> Tensor:
    """How far the explanation of another network is from this one's."""
    here, there = side(judged.result), side(judged.elsewhere(other))
    return share(here - there, torch.cat([here, there], 1))


def lone(judged: Judged) -> Tensor:
    """The input, where inputs can be added to it and each value stands for itself."""
    ask, method = judged.ask, judged.method
    if not ask.inputs.single or ask.inputs.tensors[0].dim() < 2 or ask.subject.call is not None:
        raise Skip("needs one tensor with columns or channels, and a model that is called with it")
    if ask.data is not None:
        raise Skip("the method's data have no such input")
    deep, grouped = ask.inputs.tensors[0].dim() > 2, getattr(method, "features", "element")
    if grouped not in ("auto", "element", "column") or (
        deep and ("gradient" not in method.card.needs or grouped == "auto")
    ):
        raise Skip("the method's features may be of several values")
    shaped(judged.result, ask.inputs)
    return ask.inputs.tensors[0]


def changed(judged: Judged, x: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """The method's values for other inputs, which `back` makes those of the model."""
    ask = judged.ask
    subject = axiom_pairs.before(ask.subject, back, features=())
    index = ask.target.index
    wanted = ask.wanted if index is None else index
    inputs = Inputs((x,), single=True)
    asked = replace(ask, subject=subject, inputs=inputs, wanted=wanted, output=None, _target=None, model_hash="")
    asked.__dict__["keys"] = ask.keys
    said = judged.method.explain(subject, asked, judged.method.prepare(subject, asked))
    shaped(said, inputs)
    assert isinstance(said, Attribution)
    return tensors(said.values)[0].detach().double().cpu()


def shaped(result: Explanation, inputs: Inputs) -> None:
    assert isinstance(result, Attribution)
    if [v.shape for v in tensors(result.values)] != [x.shape for x in inputs.floats]:
        raise Skip("the values do not have the inputs' shape")


def share(gap: Tensor, values: Tensor) -> Tensor:
    """The largest size of each row's gap, of the largest size of its values; 0 where all values are 0."""
    size = values.abs().flatten(1).amax(1)
    return gap.abs().flatten(1).amax(1) / torch.where(size > 0, size, 1.0)


def side(result: Explanation) -> Tensor:
    """An attribution's values side by side."""
    assert isinstance(result, Attribution)
    return flatten(tuple(v.detach().double().cpu() for v in tensors(result.values)))


def flatten(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([x.flatten(1) for x in parts], 1)


def shape_like(flat: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    pieces = flat.split([x[0].numel() for x in like], 1)
    return tuple(p.reshape(-1, *x.shape[1:]).to(x.dtype) for p, x in zip(pieces, like, strict=True))
