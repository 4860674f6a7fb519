"""Advice: every method suggested or refused with a reason, deadlines kept on a clock that the model itself turns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as px
from pellucid.advice import trial
from pellucid.advice.questions import KINDS, asked
from pellucid.contract import registered
from pellucid.contract.errors import InputError, ModelModeError
from pellucid.testing.snapshot import Snapshot

COLUMNS, ROW = 20, 0.001
PLAIN = ("feature-ablation", "shapley-sampling", "vanilla-gradient", "cart-c45-surrogate", "insertion-deletion")


class Clock:
    """Time that only the model spends: a millisecond for each row."""

    now = 0.0

    def model(self, x: Tensor) -> Tensor:
        self.now += ROW * len(x)
        weights = torch.arange(1.0, COLUMNS + 1)
        return torch.stack([x @ weights, (x[:, :1] * x[:, 1:2]).sum(1)], 1)


class Ticking(nn.Module):
    """A network that spends the same time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = [clock]
        self.line = nn.Linear(COLUMNS, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.clock[0].now += ROW * len(x)
        self.seen += len(x)
        return self.line(x).sigmoid()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(trial, "clock", lambda: made.now)
    return made


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the catalogue a few methods."""

    def choose(names: Iterable[str]) -> None:
        found = registered()
        monkeypatch.setattr("pellucid.advice.ask.registered", lambda: {n: found[n] for n in names})

    return choose


def rows(count: int = 1) -> Tensor:
    return torch.randn(count, COLUMNS, generator=torch.Generator().manual_seed(3))


def refused(found: px.advice.Advice) -> dict[str, str]:
    return {r.name: r.reason for r in found.refused}


def test_every_method_is_suggested_or_refused_once_with_a_reason(clock: Clock, few: Any) -> None:
    few(PLAIN)
    found = px.advise(clock.model, rows())
    assert sorted([*found.names, *refused(found)]) == sorted(PLAIN)
    assert all(refused(found).values())
    assert all(s.why and s.cost.stated for s in found.suggestions)
    assert "torch module" in refused(found)["vanilla-gradient"]
    assert "examples to learn from" in refused(found)["cart-c45-surrogate"]
    assert "another method" in refused(found)["insertion-deletion"]


def test_the_cost_is_what_the_call_takes(clock: Clock, few: Any) -> None:
    few(PLAIN)
    found = px.advise(clock.model, rows(2), deadline=100.0, patience=1000.0)
    assert set(found.names) == {"feature-ablation", "shapley-sampling"}
    for s in found.suggestions:
        before = clock.now
        px.explain(clock.model, rows(2), s.method, layer=s.layer)
        assert s.cost.bound == "about"
        assert s.cost.seconds == pytest.approx(clock.now - before)
        assert s.cost.forwards == round((clock.now - before) / ROW)
        assert s.cost.passes == pytest.approx((clock.now - before) / (2 * ROW), rel=0.51)


def test_the_deadline_is_met_with_fewer_draws_where_the_method_states_its_error(clock: Clock, few: Any) -> None:
    few(["shapley-sampling"])
    samples = []
    for deadline in (0.2, 0.8, 100.0):
        found = px.advise(clock.model, rows(), deadline=deadline, patience=1000.0)
        (only,) = found.suggestions
        before = clock.now
        result = px.explain(clock.model, rows(), only.method)
        assert clock.now - before <= deadline
        assert result.error is not None
        assert any("fewer draws" in limit for limit in only.limits) == (deadline < 100)
        samples.append(only.method.walks)
    assert samples == sorted(set(samples))
    assert samples[-1] == px.attribution.ShapleySampling().walks


def test_more_time_never_gives_fewer_draws_and_the_error_holds_the_exact_value(clock: Clock, few: Any) -> None:
    few(["shapley-sampling"])
    (only,) = px.advise(clock.model, rows(), deadline=0.2, patience=1000.0).suggestions
    exact = rows()[0] * torch.arange(1.0, COLUMNS + 1)  # of a straight line, whatever the order of the features
    result = px.explain(clock.model, rows(), only.method, target=0)
    assert ((result.values[0] - exact).abs() <= 4 * result.error[0] + 1e-3).all()


def test_a_deadline_below_the_cheapest_is_refused_by_name(clock: Clock, few: Any) -> None:
    few(PLAIN)
    found = px.advise(clock.model, rows(), deadline=0.01)
    assert found.suggestions == ()
    assert found.statement.startswith("Nothing explains 1 row within 10 ms: the quickest is feature-ablation, it takes")
    below = px.advise(clock.model, rows(), deadline=ROW / 2)
    assert "one forward pass takes 1 ms" in below.statement


def test_what_there_was_no_time_to_try_comes_last_or_is_refused(clock: Clock, few: Any) -> None:
    few(PLAIN)
    found = px.advise(clock.model, rows(), patience=0.01)
    assert {s.cost.bound for s in found.suggestions[1:]} <= {"unknown", "more than"}
    hurried = px.advise(clock.model, rows(), patience=0.01, deadline=5.0)
    assert any("no time to try" in r or "more than" in r for r in refused(hurried).values())


def test_a_stopped_trial_leaves_no_trace(clock: Clock, few: Any) -> None:
    few(["smoothgrad", "integrated-gradients", "kernel-shap"])
    model, x = Ticking(clock).eval(), rows(2)
    before = Snapshot.of(model, x)
    px.advise(model, x, deadline=0.003, patience=0.02)
    assert before.difference(Snapshot.of(model, x)) == ""


def test_a_model_in_training_mode_is_refused(clock: Clock) -> None:
    with pytest.raises(ModelModeError):
        px.advise(Ticking(clock), rows())


def test_one_method_that_breaks_does_not_take_the_advice_down(clock: Clock, few: Any, monkeypatch: Any) -> None:
    few(["feature-ablation", "shapley-sampling"])

    def breaks(*_: Any) -> None:
        raise IndexError("planted")

    monkeypatch.setattr(registered()["shapley-sampling"], "explain", breaks)
    found = px.advise(clock.model, rows())
    assert found.names == ["feature-ablation"]
    assert refused(found)["shapley-sampling"] == "it failed with IndexError: planted"


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Why not a seven?", "why not"),
        ("What would have to change for the loan to be granted?", "why not"),
        ("Which examples made it think so?", "which examples"),
        ("Are there similar cases?", "which examples"),
        ("What rule does it follow?", "what rule"),
        ("Which pixels mattered?", "which inputs"),
        ("Why did it say cat?", "which inputs"),
        ("which columns matter in general?", "which inputs in general"),
        ("What does this hidden unit respond to?", "what do hidden parts mean"),
        ("Can I trust the map?", "can it be believed"),
        *((k.name, k.name) for k in KINDS),
    ],
)
def test_a_question_is_understood(question: str, kind: str) -> None:
    found = asked(question, [m.card for m in registered().values()])
    assert found.kind is not None
    assert found.kind.name == kind


def test_a_question_chooses_the_form(clock: Clock, few: Any) -> None:
    few([*PLAIN, "explanation-vectors"])
    data = (rows(30), torch.arange(30) % 2)
    rules = px.advise(clock.model, rows(), "What rule does it follow?", data=data)
    assert rules.names == ["cart-c45-surrogate"]
    assert refused(rules)["feature-ablation"].startswith("it answers another question: By how much")
    assert set(px.advise(clock.model, rows(), "Which inputs mattered?", data=data).names) >= {"feature-ablation"}


def test_why_not_gets_what_turns_the_answer_and_how_to_contrast_two_classes(clock: Clock, few: Any) -> None:
    few(["feature-ablation", "acd", "representation-erasure-rl"])
    found = px.advise(clock.model, rows(), "Why not the other class?")
    assert found.names == ["representation-erasure-rl"]
    assert "px.margin(towards, against)" in found.statement
    few(["feature-ablation"])
    assert "px.margin(towards, against)" in px.advise(clock.model, rows(), "why not").statement


def test_free_words_find_the_card_that_asks_the_same() -> None:
    card = px.catalogue.card("ice")
    found = asked(card.question.replace("?", ""), [m.card for m in registered().values()])
    assert found.kind is None or card.name in found.fits
    with pytest.raises(InputError, match="share words"):
        asked("xyzzy plugh", [m.card for m in registered().values()])


def test_presets_and_audiences(clock: Clock, few: Any) -> None:
    few(["feature-ablation", "shapley-sampling", "cart-c45-surrogate", "pdp", "sobol-indices"])
    data = (rows(30), torch.arange(30) % 2)
    know = {"data": data, "patience": 1000.0}
    quick = px.advise(clock.model, rows(), preset="time-critical", **know)
    assert quick.asked["deadline"] == 0.5
    took = [s.cost.seconds for s in quick.suggestions]
    assert took == sorted(took)
    know["deadline"] = 100.0  # so that nothing is stopped
    science = px.advise(clock.model, rows(), preset="science", **know)
    scopes = [s.card.scope for s in science.suggestions]
    assert scopes == sorted(scopes)  # global before local
    decision = px.advise(clock.model, rows(), preset="decision-critical", **know)
    assert {s.card.form for s in decision.suggestions[:2]} == {"attribution", "rules"}
    assert decision.suggestions[0].card.scope == "local"
    auditor = px.advise(clock.model, rows(), "which inputs", "auditor", **know)
    assert auditor.names[0] == "shapley-sampling"  # the only one of rows that states its own error
    assert "states its own error" in auditor.suggestions[0].why


def test_evidence_is_measured_on_this_model(few: Any) -> None:
    few(["feature-ablation", "gradient-x-input", "vanilla-gradient"])
    model = nn.Linear(COLUMNS, 2).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.arange(2.0 * COLUMNS).view(2, -1) - COLUMNS)
    found = px.advise(model, rows().double(), "which inputs", patience=100.0)
    # On a straight line ablation and gradient × input rank features truly; the bare gradient ignores the input's sign.
    assert found.names[-1] == "vanilla-gradient"
    assert all("median rank" in s.evidence[0] for s in found.suggestions)


@pytest.mark.parametrize(
    "wrong",
    [
        {"deadline": 0},
        {"deadline": -1.0},
        {"deadline": "soon"},
        {"deadline": float("nan")},
        {"deadline": True},
        {"audience": "king"},
        {"preset": "urgent"},
        {"question": ""},
        {"question": 3},
        {"patience": None},
    ],
)
def test_wrong_arguments_are_refused_before_the_model_runs(clock: Clock, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        px.advise(clock.model, rows(), **wrong)
    assert clock.now == 0


def test_advice_is_data_words_and_a_safe_page(clock: Clock, few: Any) -> None:
    few(PLAIN)
    found = px.advise(clock.model, rows(), audience="layperson")
    plain = found.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["suggestions"][0]["method"] == found.names[0]
    assert "px.explain(model, inputs, 'feature-ablation')" in str(found)
    bad = px.advice.Refusal(name="<script>alert(1)</script>", reason="\u202e<img src=x onerror=y>")
    page = px.advice.Advice(statement="<b>x</b>", suggestions=found.suggestions, refused=(bad,), asked={}).html()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>x" not in page
    assert "\u202e" not in page


def test_the_call_that_is_spelt_out_is_the_call_that_was_timed(clock: Clock, few: Any) -> None:
    few(["shapley-sampling"])
    (only,) = px.advise(clock.model, rows(), deadline=0.2, patience=1000.0).suggestions
    made = eval(only.call, {"px": px, "model": clock.model, "inputs": rows(), **vars(px.attribution)})
    assert made.source["settings"] == px.explain(clock.model, rows(), only.method).source["settings"]


ZOO = ("vanilla-gradient", "grad-cam", "feature-ablation", "omission-score", "deep-nearest-neighbours", "pdp", "ice")


@pytest.mark.parametrize(
    ("name", "fits", "misfits"),
    [
        ("digits-cnn", {"vanilla-gradient", "grad-cam", "feature-ablation"}, {"omission-score", "pdp", "ice"}),
        ("sentences-gru", {"vanilla-gradient", "feature-ablation", "omission-score"}, {"grad-cam", "pdp", "ice"}),
        ("iris-mlp", {"vanilla-gradient", "feature-ablation", "pdp", "ice"}, {"grad-cam", "omission-score"}),
    ],
)
def test_what_fits_networks_of_the_zoo(name: str, fits: set[str], misfits: set[str], few: Any) -> None:
    few(ZOO)
    model, world = px.zoo.load(name), px.zoo.data(name)
    found = px.advise(model, world.test[0][:1], data=world.train, patience=100.0)
    assert fits <= set(found.names)
    assert misfits <= set(refused(found))
    without = px.advise(model, world.test[0][:1], patience=100.0)
    assert "deep-nearest-neighbours" in found.names
    assert "examples to learn from" in refused(without)["deep-nearest-neighbours"]
