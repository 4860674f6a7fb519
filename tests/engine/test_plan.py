"""Plans give what the model gives, whole, cut, or from the stem on."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.plan_nets import IMAGE, NETS, Residual, Reused, TwoInputs, made, relative, rows, slope
from pellucid.contract.errors import InputError, LayerError
from pellucid.engine import plan


@pytest.fixture(autouse=True)
def _no_plans_left() -> Iterator[None]:
    yield
    plan._shelves.clear()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_same_output_and_gradient_at_any_number_of_rows(name: str, dtype: torch.dtype) -> None:
    build, shape = NETS[name]
    model, (close, near) = made(build, dtype), (1e-4, 1e-3) if dtype is torch.float32 else (1e-10, 1e-9)
    for kind in ("gradient", "forward"):
        made_plan = plan.get(model, (rows(shape, 3, dtype),), kind)
        assert made_plan is not None, plan.explain_none(model, (rows(shape, 3, dtype),), kind)
        for count in (1, 2, 5):
            x = rows(shape, count, dtype)
            with torch.no_grad():
                assert relative(made_plan(x).clone(), model(x)) < close
            if kind == "gradient":
                assert relative(slope(made_plan, x), slope(model, x)) < near


def test_forward_plan_is_under_inference_mode_and_gradient_plan_asks_no_weight() -> None:
    model, x = made(Residual), rows(IMAGE, 2)
    assert plan.get(model, (x,), "forward")(x).is_inference()
    gradient = plan.get(model, (x,))
    assert not gradient(x).requires_grad
    assert gradient(x.requires_grad_()).requires_grad


def test_two_inputs_and_a_dictionary_of_outputs() -> None:
    model, words = made(TwoInputs), torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(0))
    inputs = rows(IMAGE, 3), words
    for kind in ("gradient", "forward"):
        got, expected = plan.get(model, inputs, kind)(*inputs), model(*inputs)
        assert set(got) == set(expected)
        assert all(relative(got[name].clone(), expected[name].detach()) < 1e-5 for name in got)


@pytest.mark.parametrize("kind", ["gradient", "forward"])
@pytest.mark.parametrize(("cut", "closed"), [("layer1", True), ("layer2.conv1", False), ("bn", True), ("conv", True)])
def test_a_cut_plan_meets_the_module_output(kind: plan.Kind, cut: str, closed: bool) -> None:
    model, x = made(Residual), rows(IMAGE, 3)
    halves = plan.get(model, (x,), kind, cut)
    assert halves.closed is closed
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: object, out: Tensor) -> Tensor:
        seen.append(out)
        return out.clone()  # what follows may write into it

    with model.get_submodule(cut).register_forward_hook(keep):
        expected = model(x)
    halves = plan.get(model, (x,), kind, cut)
    activation = halves.below(x)
    assert relative(activation.clone(), seen[0].detach()) < 1e-5
    others = () if closed else (x,)
    if kind == "gradient":
        activation.requires_grad_()
        (mine,) = torch.autograd.grad(halves.above(activation, *others)[:, 1].sum(), activation)
        (right,) = torch.autograd.grad(expected[:, 1].sum(), seen[0])
        assert relative(mine, right) < 1e-4
    assert relative(halves(x).clone().detach(), expected.detach()) < 1e-5


def test_cut_refusals() -> None:
    model, x = made(Reused), rows(IMAGE, 2)
    assert "more than once" in plan.explain_none(model, (x,), cut="conv")
    assert "no module" in plan.explain_none(model, (x,), cut="convolution")
    with pytest.raises(LayerError, match="not cut"):
        plan.get(model, (x,)).below(x)
    residual = made(Residual)
    halves = plan.get(residual, (x,), cut="layer2.conv1")
    activation = halves.below(x)
    with pytest.raises(InputError, match="goes round"):
        halves.above(activation)


@pytest.mark.parametrize("name", ["residual", "perceptron", "norms"])
def test_stem_is_affine_and_its_backward_is_the_gradient(name: str) -> None:
    build, shape = NETS[name]
    model, x, y = made(build, torch.float64), rows(shape, 2, torch.float64), rows(shape, 3, torch.float64)[:2]
    stem = plan.get(model, (x,)).stem
    if name == "norms":
        assert stem is not None
    between = stem.forward(x) + 0.3 * (stem.forward(y) - stem.forward(x))
    point = x + 0.3 * (y - x)
    assert relative(between, stem.forward(point)) < 1e-12
    assert relative(stem.rest(between), model(point).detach()) < 1e-10
    assert relative(stem.backward(slope(stem.rest, between)), slope(model, point)) < 1e-9


def test_stem_is_missing_where_the_input_is_read_twice() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) + x).sum((2, 3))

    assert plan.get(made(Skip), (rows(IMAGE, 1),)).stem is None


class _Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def test_parametrized_weights_are_settled_in_the_copy_alone() -> None:
    model, x = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())), rows(IMAGE, 2)
    parametrize.register_parametrization(model[0], "weight", _Double())
    model.eval()
    expected = model(x).detach()
    assert relative(plan.get(model, (x,))(x), expected) < 1e-5
    assert parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model(x), expected)


def test_fused_kernels_fall_back_to_the_plain_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("pellucid.engine.plan.kernels._reorder", broken)
    model, x = made(Residual), rows(IMAGE, 2)
    assert relative(plan.get(model, (x,), "forward")(x).clone(), model(x).detach()) < 1e-4


def test_a_wrong_plan_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison that guards every plan fails on a wrong rewrite."""
    monkeypatch.setattr("pellucid.engine.plan.ops.Affine.scaled", lambda self, scale, shift: self)
    assert "another output" in plan.explain_none(made(Residual), (rows(IMAGE, 2),))


def test_graph_modules_and_copies_work() -> None:
    model, x = torch.fx.symbolic_trace(made(Residual)), rows(IMAGE, 2)
    assert relative(plan.get(model, (x,))(x), model(x).detach()) < 1e-4
    twin = copy.deepcopy(model)
    assert plan.get(twin, (x,)) is not plan.get(model, (x,))


def test_worth_counts_passes() -> None:
    assert plan.worth(made(Residual), 1000)
    assert not plan.worth(made(Residual), 3)
    assert not plan.worth(made(lambda: nn.Sequential(nn.Linear(3, 2))), 1000)
