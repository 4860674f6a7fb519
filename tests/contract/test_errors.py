"""What users do wrong: each call raises our own error, which names the argument, says what it got and what to try."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import errors
from pellucid.testing import fixture
from pellucid.testing.case import counted

X = torch.ones(4, 6)
IDS = torch.ones(4, 5, dtype=torch.long)


def pairs(y: Any, h: Any) -> Any:
    return y, h


def model(name: str = "mlp") -> Any:
    return fixture(name).model()


# (what, arguments of explain, kind of error, words of the message)
BEFORE_WORK: list[tuple[str, dict[str, Any], type[errors.PellucidError], tuple[str, ...]]] = [
    ("inputs: array", {"inputs": np.ones((4, 6))}, errors.InputError, ("'inputs'", "ndarray", "torch.as_tensor")),
    ("inputs: list in tuple", {"inputs": (X, [1, 2])}, errors.InputError, ("inputs[1]", "list")),
    ("inputs: nothing", {"inputs": ()}, errors.InputError, ("'inputs'", "none")),
    ("inputs: one row without its axis", {"inputs": torch.tensor(1.0)}, errors.InputError, ("first axis", "unsqueeze")),
    ("inputs: empty", {"inputs": X[:0]}, errors.InputError, ("'inputs'", "(0, 6)")),
    ("inputs: NaN", {"inputs": X * float("nan")}, errors.InputError, ("finite", "NaN")),
    ("inputs: double", {"inputs": X.double()}, errors.InputError, ("torch.float32", "torch.float64", "Try")),
    ("inputs: rows differ", {"inputs": (X, X[:2])}, errors.InputError, ("(4, 6)", "(2, 6)")),
    ("inputs: sparse", {"inputs": X.to_sparse()}, errors.InputError, ("dense", "sparse")),
    ("inputs: complex", {"inputs": X.to(torch.complex64)}, errors.InputError, ("real", "complex64")),
    ("target: fraction", {"target": 0.5}, errors.TargetError, ("'target'", "0.5", "4 ints")),
    ("target: word", {"target": "cat"}, errors.TargetError, ("'target'", "cat")),
    ("target: truth", {"target": True}, errors.TargetError, ("'target'", "True")),
    ("target: one too few", {"target": [0, 1, 2]}, errors.TargetError, ("'target'", "[0, 1, 2]")),
    ("target: matrix", {"target": torch.zeros(4, 3).long()}, errors.TargetError, ("'target'", "(4, 3)")),
    ("target: mask with two", {"target": torch.ones(4, 3).bool()}, errors.TargetError, ("'target'", "bool")),
    ("target: unit nowhere", {"target": px.unit("nowhere", 0)}, errors.LayerError, ("nowhere", "Try")),
    ("layer: misspelt", {"layer": "00"}, errors.LayerError, ("'layer'", "'00'", "'0'")),
    ("layer: number", {"layer": 3}, errors.LayerError, ("'layer'", "3")),
    ("layer: empty", {"layer": ""}, errors.LayerError, ("'layer'", "Try")),
    ("method: misspelt", {"method": "vanila-gradient"}, errors.MethodError, ("vanila", "'vanilla-gradient'")),
    ("method: number", {"method": 7}, errors.MethodError, ("'method'", "int", "Try")),
    ("method: unknown setting", {"method": {"method": "vanilla-gradient", "steps": 3}}, errors.MethodError, ("steps",)),
    ("seed: fraction", {"seed": 1.5}, errors.InputError, ("'seed'", "1.5")),
    ("memory: none", {"memory": 0}, errors.InputError, ("'memory'", "0", "Try")),
    ("memory: word", {"memory": "many"}, errors.InputError, ("'memory'", "many", "1GiB")),
    ("data: missing", {"method": "expected-gradients"}, errors.NeedError, ("data=None", "data=")),
]


@pytest.mark.parametrize(("what", "arguments", "kind", "words"), BEFORE_WORK, ids=[row[0] for row in BEFORE_WORK])
def test_refused_before_the_model_runs(
    what: str, arguments: dict[str, Any], kind: type, words: tuple[str, ...]
) -> None:
    network = model()
    with counted(network) as watch, pytest.raises(kind) as caught:
        px.explain(network, **{"inputs": X, "method": "vanilla-gradient", **arguments})
    assert watch.calls == 0
    for word in words:
        assert word in str(caught.value)


# (what, model, arguments, kind, words)
BY_MODEL: list[tuple[str, Any, dict[str, Any], type[errors.PellucidError], tuple[str, ...]]] = [
    ("class beyond the last", lambda: model(), {"target": 3}, errors.TargetError, ("0 to 2", "Got 3")),
    ("class before the first", lambda: model(), {"target": -4}, errors.TargetError, ("0 to 2", "Got -4")),
    ("too many numbers", lambda: model(), {"target": lambda y: y}, errors.TargetError, ("one number per row", "3)")),
    (
        "one number for all",
        lambda: model(),
        {"target": lambda y: y.sum()},
        errors.TargetError,
        ("one number", "()"),
    ),
    ("unit out of place", lambda: model(), {"target": px.unit("0", 99)}, errors.TargetError, ("'0'", "99")),
    ("wrong width", lambda: nn.Linear(5, 2).eval(), {}, errors.InputError, ("(4, 6)", "Try inputs")),
    ("training", lambda: model("dropout-in-training"), {}, errors.ModelModeError, ("training mode", "model.eval()")),
    ("compiled", lambda: model("compiled"), {}, errors.WrapperError, ("eager", "OptimizedModule")),
    ("traced", lambda: model("traced"), {}, errors.WrapperError, ("eager", "TracedModule")),
    ("NaN", lambda: model("nan-output"), {}, errors.NumericalError, ("finite", "row 0")),
    ("several outputs", lambda: model("dict-output").model, {}, errors.OutputSelectionError, ("'logits'", "output=")),
    (
        "no such output",
        lambda: px.Subject(model("dict-output").model, output="odds"),
        {},
        errors.OutputSelectionError,
        ("odds",),
    ),
    ("labels", lambda: nn.Sequential(nn.Linear(6, 3), Labels()).eval(), {}, errors.NeedError, ("scores", "int64")),
    ("no gradient", lambda: nn.Sequential(nn.Linear(6, 3), Cut()).eval(), {}, errors.NeedError, ("differentiable",)),
    ("one row for all", lambda: nn.Sequential(nn.Linear(6, 3), Mean()).eval(), {}, errors.InputError, ("one row per",)),
    ("a callable", lambda: lambda x: x, {}, errors.NeedError, ("torch module", "predictions")),
    ("no model", lambda: 3, {}, errors.InputError, ("'model'", "int")),
    ("layer unreached", lambda: Unreached().eval(), {"layer": "spare"}, errors.LayerError, ("'spare'", "0 calls")),
    ("layer of two calls", lambda: model("reused-relu"), {"layer": "1"}, errors.LayerError, ("2 calls", "'1#1'")),
]


def misnamed(output: str) -> px.Subject:
    return px.Subject(model("dict-output").model, output=output)


class Labels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1)


class Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0, keepdim=True)


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@pytest.mark.parametrize(("what", "make", "arguments", "kind", "words"), BY_MODEL, ids=[row[0] for row in BY_MODEL])
def test_refused_by_name(what: str, make: Any, arguments: dict[str, Any], kind: type, words: tuple[str, ...]) -> None:
    with pytest.raises(kind) as caught:
        px.explain(make(), X, **{"method": "vanilla-gradient", **arguments})
    assert isinstance(caught.value, errors.PellucidError)
    for word in words:
        assert word in str(caught.value)


def test_tokens_need_a_layer() -> None:
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    with pytest.raises(errors.InputError, match="embedding"):
        px.explain(model("tokens"), inputs, "vanilla-gradient")


def test_the_models_own_error_comes_through_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="planted at call 1") as caught:
        px.explain(model("raising"), X, "vanilla-gradient")
    assert not isinstance(caught.value, errors.PellucidError)
    assert any("vanilla-gradient" in note for note in caught.value.__notes__)


def test_an_error_of_shape_can_still_be_caught_as_the_model_raised_it() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        px.explain(nn.Linear(5, 2).eval(), X, "vanilla-gradient")
    assert isinstance(caught.value, errors.InputError)
    assert type(caught.value.__cause__) is RuntimeError


def kinds() -> list[type[errors.PellucidError]]:
    found = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.PellucidError)]
    return sorted(found, key=lambda k: k.__name__)


@pytest.mark.parametrize("kind", kinds(), ids=lambda k: k.__name__)
def test_errors_say_it_in_one_form_and_pickle(kind: type[errors.PellucidError]) -> None:
    error = kind("The 'x' must be A", got="B", hint="C")
    assert str(error) == "The 'x' must be A. Got B. Try C."
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.hint) == (kind, str(error), "C")
