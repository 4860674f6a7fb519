"""The table of rules a model gets, and the self-test of torch's private calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets import sequence, stock
from nets.spellings import image
from pellucid.contract.errors import NeedError
from pellucid.engine import rules
from pellucid.engine.rules import selftest


def test_rows_name_operation_module_line_and_rule():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Softshrink(), nn.Linear(3, 2)).double()
    rows = rules.check(model, image(2, 1, 2).flatten(1), rules.guided())
    assert [(r.operation, r.module, r.rule) for r in rows] == [
        ("aten.addmm", "0", "own"), ("aten.relu", "1", "guided"), ("aten.softshrink", "2", ""), ("aten.addmm", "3", "own"),
    ]  # fmt: skip
    assert all("test_check.py:" in r.line for r in rows)
    assert "aten.softshrink in module '2'" in rows[2].problem
    assert [bool(r.problem) for r in rows] == [False, False, True, False]


def test_folded_batch_norm_shows():
    rows = rules.check(stock.small_resnet(), image(1, 3, 16), rules.epsilon_lrp())
    assert {r.rule for r in rows if r.operation == "aten.native_batch_norm"} == {"folded into the operation before"}
    assert not [r for r in rows if r.problem]


@pytest.mark.parametrize("name", ["lstm", "gru", "encoder", "attention"])
def test_sequence_networks_have_rules_throughout(name):
    rows = rules.check(sequence.FLOAT[name](), sequence.sentences(), rules.epsilon_lrp())
    assert not [r for r in rows if r.problem]
    assert len(rows) > 10


def test_token_models_are_checked_down_to_a_place():
    model = stock.settle(sequence.Tokens())
    with pytest.raises(NeedError):
        rules.check(model, sequence.token_ids(), rules.guided())
    rows = rules.check(model, sequence.token_ids(), rules.guided(), at="embedding")
    assert rows
    assert not [r for r in rows if r.problem]


def test_outputs_in_dicts_and_tuples():
    class Several(nn.Module):
        def forward(self, x):
            return {"a": (x.tanh(), None), "b": x.sigmoid(), "ids": x.argmax(1)}

    rows = rules.check(Several(), image(2, 1, 2), rules.gradient())
    assert {r.operation for r in rows} == {"aten.tanh", "aten.sigmoid"}


def test_the_self_test_passes_here_and_touches_no_generator():
    before = torch.get_rng_state()
    selftest.available.cache_clear()
    assert rules.available() == rules.Outcome(True)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("private", ["_get_sequence_nr"])
def test_the_self_test_notices_missing_and_wrong_numbers(monkeypatch, private):
    real = torch.autograd._get_sequence_nr
    monkeypatch.setattr(torch.autograd, "_get_sequence_nr", lambda: real() + 1000)
    selftest.available.cache_clear()
    outcome = rules.available()
    assert not outcome
    assert outcome.reason
    monkeypatch.delattr(torch.autograd, "_get_sequence_nr")
    selftest.available.cache_clear()
    assert "AttributeError" in rules.available().reason
    monkeypatch.undo()
    selftest.available.cache_clear()
    assert rules.available()


def test_the_self_test_notices_wrong_modules(monkeypatch):
    from pellucid.engine.rules import record

    monkeypatch.setattr(record, "CALL", None)
    selftest.available.cache_clear()
    assert "wrong module" in rules.available().reason
    monkeypatch.undo()
    selftest.available.cache_clear()
    assert rules.available()
