"""What a card may claim of the values themselves: completeness, linearity, dummies, symmetry, invariance, scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine import Subject, as_subject
from pellucid.engine.inputs import as_inputs
from pellucid.testing import networks
from pellucid.testing.awkward import TABLE, fixture
from pellucid.testing.case import DOUBLE, Case, CheckFailed, change, demand, gap, leaves
from pellucid.testing.checking.entry import check

ROWS = 4
EXACT = 1e-9
LARGEST_SHARE = 0.25  # of the change in score that the reported gap may reach under the card's cheap settings


def values(result: Any) -> list[Tensor]:
    """The tensors that a claim is about."""
    return leaves(result.values)


def equal(found: list[Tensor], expected: list[Tensor], what: str, limit: float = EXACT) -> None:
    """Fail unless values agree up to a share of their largest."""
    demand(len(found) == len(expected), f"{what}: {len(found)} tensors against {len(expected)}")
    for a, b in zip(found, expected, strict=True):
        demand(gap(a, b) <= limit, f"{what}: differs by {gap(a, b):.1e} of the largest value (at most {limit:.0e})")


def scores(model: Any, inputs: Any) -> Tensor:
    """The explained output, straight from the model, (N, classes)."""
    with torch.no_grad():
        return as_subject(model).scores(as_inputs(inputs)).reshape(leaves(inputs)[0].shape[0], -1).clone()


@check("complete", claim="complete", form=("attribution",), everywhere=True)
def complete(case: Case) -> None:
    """The values of a row sum to score minus baseline score, and the gap that remains is reported and small."""
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)
    result = case.explain(model, inputs, dtype=DOUBLE)
    for name in ("score", "baseline_score", "completeness_gap"):
        demand(name in result.facts, f"there is no fact {name!r}")
    output = scores(model, change(inputs, torch.clone))
    index = result.target if result.target is not None else torch.zeros(ROWS, dtype=torch.long)
    score = output.gather(1, index[:, None])[:, 0]
    demand(gap(result.facts["score"], score) <= EXACT, "the fact 'score' is not the model's score of the target")
    reference = result.facts["baseline_score"].double()
    if result.baseline is not None and case.layer is None:
        base = scores(model, _merged(inputs, result.baseline)).gather(1, index[:, None])[:, 0]
        demand(gap(reference, base) <= EXACT, "the fact 'baseline_score' is not the model's score of the baseline")
    total = sum(v.double().flatten(1).sum(1) for v in values(result))
    assert isinstance(total, Tensor)
    missing = (total - (score - reference)).abs()
    reported, change_of_score = result.facts["completeness_gap"].double(), (score - reference).abs()
    off = float((missing - reported).abs().max())
    demand(off <= 1e-8 * float(1 + change_of_score.max()), f"the reported gap is wrong by {off:.1e}")
    sampled = sum(e.double().flatten(1).sum(1) for e in leaves(result.error)) if result.error is not None else 0.0
    excess = ((missing - 4 * sampled).clamp(min=0) / (change_of_score + 1e-3 * change_of_score.max() + 1e-12)).median()
    demand(
        excess <= LARGEST_SHARE, f"the gap is {float(excess):.0%} of the change in score (at most {LARGEST_SHARE:.0%})"
    )


def _merged(inputs: Any, baseline: Any) -> Any:
    """The baseline with masks and other whole-number inputs put back."""
    if isinstance(inputs, Tensor):
        return baseline.clone()
    if isinstance(inputs, dict):
        return {k: baseline[k].clone() if k in baseline else v for k, v in inputs.items()}
    return tuple(v if b is None else b.clone() for v, b in zip(inputs, baseline, strict=True))


@check("score scale", claim="score scale", form=("attribution",))
def score_scale(case: Case) -> None:
    """Doubling the score doubles the values."""
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)

    def ask(target: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return values(case.explain(model, inputs, dtype=DOUBLE, target=target))

    equal(ask(lambda y: 2 * y[:, 1]), [2 * v for v in ask(lambda y: y[:, 1])], "twice the score")


@check("linear", claim="linear", form=("attribution",))
def linear(case: Case) -> None:
    """The explanation of a weighted sum of scores is the weighted sum of their explanations."""
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)

    def ask(target: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return values(case.explain(model, inputs, dtype=DOUBLE, target=target))

    parts = zip(ask(lambda y: y[:, 0]), ask(lambda y: y[:, 1]), strict=True)
    equal(ask(lambda y: 2 * y[:, 0] - 3 * y[:, 1]), [2 * a - 3 * b for a, b in parts], "2 f - 3 g")


def _first(model: Any) -> nn.Parameter:
    """The weights that meet the input: their second axis is the input's."""
    module = model.model if isinstance(model, Subject) else model
    return next(p for p in module.parameters() if p.dim() >= 2)


class _Narrow(nn.Module):
    """A network that reads all columns but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = networks.mlp(networks.FEATURES - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x[:, :-1])


@check("dummy", claim="dummy", form=("attribution",))
def dummy(case: Case) -> None:
    """An input that the model never reads gets exactly zero: no weight, cut off, or padded."""
    if case.layer is not None:
        return
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)
    with torch.no_grad():
        _first(model)[:, 1] = 0
    result = case.explain(model, inputs, dtype=DOUBLE)
    demand(not values(result)[0][:, 1].any(), "an input without weight gets a value")
    demand(values(result)[0].any(), "all values are zero")
    if case.fixture.kind != "table":
        return
    narrow = networks.fill(_Narrow(), 5).eval().double()
    found = values(case.explain(narrow, TABLE(ROWS, DOUBLE), dtype=DOUBLE))[0]
    demand(not found[:, -1].any(), "a column that is cut off gets a value")
    padded = Case(method=case.method, fixture=fixture("padded-transformer"), verb=case.verb)
    if padded.misfit() or "backward rules" in case.card.needs:
        return
    x, padding = padded.inputs(ROWS, DOUBLE)
    found = values(padded.explain(padded.model(DOUBLE), (x, padding), dtype=DOUBLE))[0]
    demand(not found[padding].any(), "a padded step gets a value")


@check("symmetric", claim="symmetric", form=("attribution",))
def symmetric(case: Case) -> None:
    """Two inputs with the same weights and the same value get the same."""
    if case.layer is not None:
        return
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)
    with torch.no_grad():
        _first(model)[:, 1] = _first(model)[:, 0]
    twins = change(inputs, lambda x: torch.cat([x[:, :1], x[:, :1], x[:, 2:]], 1))
    found = values(case.explain(model, twins, dtype=DOUBLE))[0]
    demand(found[:, 0].any(), "all values are zero")
    equal([found[:, 1]], [found[:, 0]], "twin inputs")


class _Wrapped(nn.Module):
    """The same function by a longer way: each number is taken apart into its positive and negative part, and joined."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(functional.relu(x) - functional.relu(-x))
        return functional.relu(y) - functional.relu(-y)


def _twice(body: nn.Sequential) -> nn.Sequential:
    """The same function by another network: every hidden unit is split in two that partly cancel, in another order."""
    wide = networks.mlp(hidden=32).to(DOUBLE).eval()
    order = torch.arange(32).roll(5)
    with torch.no_grad():
        for at, (split_in, split_out) in {0: (False, True), 2: (True, True), 4: (True, False)}.items():
            weight, bias = body[at].weight, body[at].bias
            assert isinstance(weight, Tensor)
            assert isinstance(bias, Tensor)
            if split_in:
                weight = torch.cat([1.5 * weight, -0.5 * weight], 1)[:, order]
            if split_out:
                weight, bias = torch.cat([weight, weight])[order], torch.cat([bias, bias])[order]
            wide[at].weight.copy_(weight)  # type: ignore[operator]
            wide[at].bias.copy_(bias)  # type: ignore[operator]
    return wide


@check("implementation invariant", claim="implementation invariant", form=("attribution",))
def implementation_invariant(case: Case) -> None:
    """Two networks that compute the same function get the same values."""
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)
    if case.layer is not None or not isinstance(model, nn.Module):
        return
    others: dict[str, nn.Module] = {"a longer way": _Wrapped(model).eval()}
    if isinstance(model, nn.Sequential) and len(model) == 5:
        others["split units"] = _twice(model)
    plain = case.explain(model, inputs, dtype=DOUBLE, target=1)
    for name, other in others.items():
        demand(gap(scores(model, inputs), scores(other, inputs)) < 1e-12, f"the network {name!r} is another function")
        equal(values(case.explain(other, inputs, dtype=DOUBLE, target=1)), values(plain), name)


def _clamped(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def spellings(kind: str) -> dict[str, tuple[nn.Module, str, Any]]:
    """Networks of the same weights whose activations are spelt differently: name → (network, layer, inputs)."""
    if kind == "image":
        names = ("batch-norm-resnet", "in-place-resnet")
        return {k: (fixture(k).model(DOUBLE), "conv2", fixture(k).inputs(ROWS, DOUBLE)) for k in names}
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "function": functional.relu,
        "in-place function": torch.relu_,
        "module": nn.ReLU(),
        "in-place module": nn.ReLU(inplace=True),
        "method": Tensor.relu,
        "clamp": _clamped,
    }
    found: dict[str, tuple[nn.Module, str, Any]] = {}
    for name, way in ways.items():
        found[name] = networks.fill(networks.Spelled(way), 7).eval().double(), "second", TABLE(ROWS, DOUBLE)
    separate = networks.fill(networks.mlp(), 7).eval().double()
    return {"separate modules": (separate, "2", TABLE(ROWS, DOUBLE)), **found}


@check("spelling invariant", claim="spelling invariant", form=("attribution", "measure"))
def spelling_invariant(case: Case) -> None:
    """Activations as modules, functions, in place, reused or as clamp give the same values, or are refused by name."""
    expected: list[Tensor] | None = None
    refused: list[str] = []
    kind = "image" if case.fixture.kind == "image" else "table"
    variants = spellings(kind)
    for name, (model, place, inputs) in variants.items():
        changes: dict[str, Any] = {"layer": place} if case.layer is not None else {}
        before = change(inputs, torch.clone)
        try:
            found = values(case.explain(model, inputs, dtype=DOUBLE, **changes))
        except UnsupportedOperation as error:
            refused.append(name)
            demand(expected is not None, f"the plain spelling is refused: {error}")
            continue
        if expected is None:
            expected = found
        equal(found, expected, f"rectifiers written as {name!r}", 1e-10)
        demand(torch.equal(inputs, before), f"rectifiers written as {name!r} change the inputs")
    if len(refused) == len(variants) - 1:
        raise CheckFailed("every spelling but the plain one is refused")
