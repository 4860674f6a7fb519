"""Rules used again: the same where nothing changed, and a drop told where rows or model did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pellucid as px
from pellucid.contract.errors import InputError
from pellucid.evaluation import reuse
from pellucid.evaluation.reused import _difference

DOUBLE = torch.float64


def drawn(rows: int, low: float, high: float, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(rows, 2, generator=draw, dtype=DOUBLE)


def model(x: torch.Tensor) -> torch.Tensor:
    """Class 1 above a half of column 0, as far as 2; beyond, column 1 decides."""
    one = torch.where(x[:, 0] < 2, x[:, 0] > 0.5, x[:, 1] > 0.5).to(x)
    return torch.stack([1 - one, one], 1)


def made() -> px.Rules:
    x = drawn(400, 0, 1, 0)
    return px.explain(model, x, "cart-c45-surrogate", data=x)


def test_saved_and_loaded_rules_say_the_same(tmp_path: Path) -> None:
    rules = made()
    again = px.load(rules.save(tmp_path / "rules"))
    far = drawn(300, -1, 4, 1)
    assert torch.equal(again.predict(far), rules.predict(far))
    for name, figure in reuse(rules, model, far).facts.items():
        assert torch.equal(reuse(again, model, far).facts[name], figure)


def test_no_drop_on_rows_of_the_same_kind_and_the_stated_one_on_shifted_rows() -> None:
    rules = made()
    here = reuse(rules, model, drawn(500, 0, 1, 2))
    assert here.values.item() > 0.98
    assert here.facts["risk"].item() == 0
    shifted = drawn(500, 2, 3, 3)  # columns from 2 to 3: column 0 says class 1, column 1 as well, beyond a half
    shifted[:, 1] -= 2
    there = reuse(rules, model, shifted)
    by_hand = (rules.predict(shifted) == model(shifted).argmax(1)).double().mean()
    assert there.values.item() == by_hand.item()
    assert there.facts["drop"].item() == pytest.approx(rules.fidelity - by_hand.item())
    assert there.facts["risk"].item() == 1
    assert there.facts["drop_low"].item() < there.facts["drop"].item() < there.facts["drop_high"].item()


def test_another_model_is_told_apart() -> None:
    net = torch.nn.Linear(2, 2).double().eval()
    x = drawn(100, 0, 1, 4)
    rules = px.explain(net, x, "cart-c45-surrogate", data=x)
    assert reuse(rules, net, x).facts["same_model"].item() == 1
    with torch.no_grad():
        net.weight.mul_(-1)
    assert reuse(rules, net, x).facts["same_model"].item() == 0


def test_the_interval_of_a_difference_is_newcombe_s() -> None:
    """Newcombe 1998, table II, contrast (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    from pellucid.engine.evaluation import wilson

    low, high = wilson(torch.tensor(48.0), 80)
    assert _difference(56 / 70, 70, 48 / 80, float(low), float(high)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_what_is_no_rule_and_no_class_is_refused() -> None:
    x = drawn(20, 0, 1, 5)
    with pytest.raises(InputError, match="rules"):
        reuse(px.explain(model, x, "feature-ablation"), model, x)
    with pytest.raises(InputError, match="two classes"):
        reuse(made(), lambda rows: rows[:, :1], x)
    with pytest.raises(InputError, match="one table"):
        reuse(made(), model, x[:, :, None])
