"""Every relation on a network that has its preconditions, and on one that lacks exactly one of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.contract import registered
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import MethodRelations, relations
from pellucid.evaluation.relation_conditions import CONDITIONS
from pellucid.evaluation.relation_list import CHANGE, RELATIONS, SCORE, Relation

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def settled(net):
    """Weights from a generator of their own."""
    private = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=private) * (1.0 if p.dim() == 1 else 1.5 / p[0].numel() ** 0.5))
    return net.double().eval()


def mlp(unit, layers=2, bias=True, inputs=5):
    parts, width = [], inputs
    for _ in range(layers):
        parts += [nn.Linear(width, 6, bias=bias), unit]
        width = 6
    return settled(nn.Sequential(*parts, nn.Linear(width, 2, bias=bias)))


class Formula(nn.Module):
    """The score written down: class 0 is the formula, class 1 is nothing."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.eval()

    def forward(self, x):
        return torch.stack([self.formula(x), 0 * x.sum(1)], 1)


WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], **DOUBLE)
LINE = settled(nn.Linear(5, 2))
ADDITIVE = Formula(lambda x: (torch.tanh(x) * WEIGHTS).sum(1))
JUMPING = Formula(lambda x: ((x + 2.0 * (x > 0.3)) * WEIGHTS).sum(1))
PRODUCTS = Formula(lambda x: x[:, 0] * x[:, 1] - 2 * x[:, 2] * x[:, 3] + x[:, 4] + 1)
CUBIC = Formula(lambda x: x[:, 0] ** 2 * x[:, 1] + x[:, 2])
TWELVE = Formula(lambda x: x[:, :6].prod(1) + x[:, 2:9].tanh().prod(1) + x.sum(1))
PLAIN, BIASED = mlp(nn.ReLU(), bias=False), mlp(nn.ReLU())
TANH, TANH_PLAIN, ONE = mlp(nn.Tanh()), mlp(nn.Tanh(), bias=False), mlp(nn.Tanh(), layers=1)
POOLED = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)))
FLAT = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)))

ROWS, MANY, IMAGES, BACKGROUND = drawn(3, 5), drawn(2, 12), drawn(3, 2, 6, 5), drawn(4, 5, seed=3)

# relation: a network that has all preconditions, its rows, and by dropped precondition one that lacks it alone
CASES = {
    "path completeness": (BIASED, ROWS, {"no jump": JUMPING}),
    "Euler's sum": (PLAIN, ROWS, {"homogeneous": BIASED}),
    "straight path": (PLAIN, ROWS, {"homogeneous": BIASED}),
    "LRP-0 is gradient × input": (BIASED, ROWS, {"rectifiers": TANH_PLAIN}),
    "conservation": (TANH_PLAIN, ROWS, {"nothing from nothing": BIASED}),
    "DeepLIFT's sum": (TANH, ROWS, {}),
    "one bend": (ONE, ROWS, {"one layer": TANH}),
    "bent at the reference": (PLAIN, ROWS, {"rectifiers": TANH_PLAIN, "nothing from nothing": BIASED}),
    "alone and together": (ADDITIVE, ROWS, {"additive": BIASED}),
    "path of an additive score": (ADDITIVE, ROWS, {"additive": BIASED, "no jump": JUMPING}),
    "path and coalitions": (PRODUCTS, ROWS, {"quadratic": CUBIC}),
    "Kernel SHAP with all coalitions": (BIASED, ROWS, {"every coalition": TWELVE}),
    "line through an additive score": (ADDITIVE, ROWS, {"additive": BIASED}),
    "ablation of a line": (LINE, ROWS, {"affine": TANH_PLAIN}),
    "noise on a line": (LINE, ROWS, {"affine": TANH_PLAIN}),
    "Deep SHAP of a line": (LINE, ROWS, {"affine": TANH}),
    "expected paths and differences": (ONE, ROWS, {"one layer": TANH}),
    "Grad-CAM is CAM": (POOLED, IMAGES, {}),
    "HiResCAM is Grad-CAM": (POOLED, IMAGES, {"pooled head": FLAT}),
    "XGrad-CAM is Grad-CAM": (POOLED, IMAGES, {"pooled head": FLAT}),
    "guided by nothing": (TANH, ROWS, {"no rectifier": BIASED}),
    "γ of zero": (TANH, ROWS, {}),
}


def asked(net, rows, *names, **settings):
    data = BACKGROUND if rows is ROWS else None
    return px.explain(net, rows, MethodRelations(relations=names, **settings), target=0, data=data)


def test_every_relation_has_a_case():
    assert list(CASES) == [r.name for r in RELATIONS]
    assert {n for r in RELATIONS for n in r.needs} == set(CONDITIONS)
    known = registered()
    assert {s for r in RELATIONS for s in (r.left, r.right)} - {CHANGE, SCORE} <= set(known)


@pytest.mark.parametrize("name", CASES)
def test_a_relation_holds_where_its_preconditions_do(name):
    net, rows, _ = CASES[name]
    found = asked(net, rows, name)
    told = found.source["relations"][0]
    assert told["state"] == "holds", told
    assert all(c["met"] for c in told["needs"])
    assert found.values.tolist() == [0.0] * len(rows)
    assert found.facts["met"].tolist() == found.facts["held"].tolist() == [1.0] * len(rows)


@pytest.mark.parametrize(("name", "dropped"), [(n, d) for n, case in CASES.items() for d in case[2]])
def test_a_relation_fails_where_one_precondition_is_dropped(name, dropped):
    rows = MANY if dropped == "every coalition" else CASES[name][1]
    found = asked(CASES[name][2][dropped], rows, name)
    told = found.source["relations"][0]
    assert told["state"] == "differs", told
    assert {c["name"]: c["met"] for c in told["needs"]} == {c["name"]: c["name"] != dropped for c in told["needs"]}
    assert told["gap"] > 0.005
    assert found.facts["met"].tolist() == [0.0] * len(rows)  # nothing was promised


def test_cam_is_refused_where_the_head_does_not_pool():
    told = asked(FLAT, IMAGES, "Grad-CAM is CAM").source["relations"][0]
    assert told["state"] == "not tried"
    assert "grad-cam" in told["reason"]
    assert told["needs"][0]["met"] is False


def test_the_gap_is_that_of_a_loop():
    found = asked(TANH, ROWS, "ablation of a line")
    for i, row in enumerate(ROWS):
        x = row.clone().requires_grad_()
        slope = torch.autograd.grad(TANH(x[None])[0, 0], x)[0] * row
        gone = []
        for j in range(5):
            other = row.clone()
            other[j] = 0
            gone.append(TANH(row[None])[0, 0].item() - TANH(other[None])[0, 0].item())
        size = max(max(map(abs, gone)), slope.abs().max().item())
        gap = max(abs(a - b) for a, b in zip(gone, slope.tolist(), strict=True)) / size
        assert found.parts["gaps"][i, 0].item() == pytest.approx(gap)


def test_what_must_hold_and_does_not_is_called_broken(monkeypatch):
    wrong = Relation(
        name="wrong", left="vanilla-gradient", right="gradient-x-input", needs=("affine",), says="a lie", source="none"
    )
    monkeypatch.setattr(relations, "RELATIONS", (*RELATIONS, wrong))
    found = asked(LINE, ROWS, "wrong", "ablation of a line")
    assert [r["state"] for r in found.source["relations"]] == ["broken", "holds"]
    assert found.values.tolist() == [1.0] * 3
    assert found.facts["met"].tolist() == [2.0] * 3


@pytest.mark.parametrize(
    ("net", "have", "lack"),
    [
        (
            LINE,
            {"affine", "additive", "quadratic", "one layer", "rectifiers", "no rectifier", "no jump"},
            {"homogeneous"},
        ),
        (
            PLAIN,
            {"homogeneous", "rectifiers", "nothing from nothing"},
            {"affine", "one layer", "no rectifier", "additive"},
        ),
        (TANH_PLAIN, {"nothing from nothing", "no rectifier"}, {"homogeneous", "rectifiers", "quadratic", "one layer"}),
        (ADDITIVE, {"additive", "no jump", "one layer"}, {"affine", "quadratic", "homogeneous"}),
        (PRODUCTS, {"quadratic"}, {"affine", "additive", "one layer", "nothing from nothing"}),
        (JUMPING, {"additive"}, {"no jump", "affine"}),
    ],
)
def test_properties_are_told_from_the_network_itself(net, have, lack):
    question = asked(net, ROWS, *CASES).source["relations"]
    said = {c["name"]: c["met"] for r in question for c in r["needs"]}
    assert {n for n in have | lack if said[n]} == have


@pytest.mark.parametrize(
    "spelling",
    [
        lambda x: functional.relu(x),
        lambda x: x.clamp(min=0),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: x * (x > 0),
        lambda x: functional.leaky_relu(x, 0.1),
    ],
)
def test_units_are_known_in_any_spelling(spelling):
    net = settled(nn.Linear(5, 4, bias=False))
    found = asked(Formula(lambda x: spelling(net(x)).sum(1)), ROWS, "bent at the reference", "straight path")
    assert [r["state"] for r in found.source["relations"]] == ["holds", "holds"]
    bent = asked(Formula(lambda x: spelling(net(x) - 0.5).sum(1)), ROWS, "bent at the reference", "straight path")
    assert [r["state"] for r in bent.source["relations"]] == ["differs", "differs"]
    assert [c["met"] for c in bent.source["relations"][0]["needs"]] == [True, False]


def test_a_row_is_judged_by_itself():
    whole = asked(JUMPING, torch.cat([ROWS, -ROWS.abs()]), "path completeness")  # no jump is met on the way down
    assert whole.parts["meets"][:, 0].tolist() == [0.0] * 3 + [1.0] * 3
    assert whole.facts["held"].tolist() == [0.0] * 3 + [1.0] * 3
    alone = asked(JUMPING, -ROWS.abs(), "path completeness")
    assert torch.equal(alone.parts["gaps"], whole.parts["gaps"][3:])


def test_a_function_alone_has_the_relations_of_methods_that_ask():
    found = px.explain(lambda x: LINE(x).detach(), ROWS, MethodRelations(), target=0)
    states = {r["name"]: r["state"] for r in found.source["relations"]}
    assert states["alone and together"] == states["Kernel SHAP with all coalitions"] == "holds"
    assert states["LRP-0 is gradient × input"] == "not tried"
    assert found.facts["met"].tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"relations": ("none",)}, MethodError, "relations"),
        ({"relations": "conservation"}, MethodError, "tuple"),
        ({"tolerance": 0}, MethodError, "tolerance"),
        ({"tries": 0}, MethodError, "tries"),
    ],
)
def test_wrong_settings_are_refused(settings, error, word):
    with pytest.raises(error, match=word):
        px.explain(LINE, ROWS, MethodRelations(**settings))


def test_inputs_without_a_floating_tensor_are_refused():
    with pytest.raises(InputError, match="floating"):
        px.explain(
            nn.Embedding(5, 2).eval(), torch.ones(2, 3).long(), MethodRelations(), target=lambda y: y.sum((1, 2))
        )
