"""Which methods work on what: every cell run, counts by hand, and what is refused told with its reason."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import drawn
from pellucid.contract import Attribution, Card, Method, Rules, RuleStructure, registered
from pellucid.contract.errors import InputError, NumericalError, PellucidError
from pellucid.evaluation import Coverage, Universality, universality
from pellucid.evaluation.universality import FORMS, wilson
from pellucid.zoo.architectures import ARCHITECTURES, KINDS

NAMES = [a.name for a in ARCHITECTURES]
NET = nn.Linear(2, 2).eval()


def card(name, **settings):
    told = {"title": "T", "question": "What?", "form": "attribution", "scope": "local", "citation": "none"}
    return Card(name=name, **{**told, **settings})


@dataclass(frozen=True, kw_only=True)
class Moody(Method):
    """Answers as it is told to."""

    mood: str = "good"
    card: ClassVar[Card] = card("test-moody", claims=("rowwise",))

    def explain(self, subject, ask, state):
        if self.mood == "refuses" and ask.inputs.tensors[0].dim() == 4:
            raise InputError("The 'inputs' must be no pictures")
        if self.mood == "breaks":
            raise ZeroDivisionError("oh")
        values = [x.clone() for x in ask.inputs.floats or ask.inputs.tensors]
        if self.mood == "infinite":
            values[0] = values[0] / 0.0
        if self.mood == "leaks":  # from one row to the others
            values = [v + v.double().sum() for v in values]
        return Attribution(values=values[0] if len(values) == 1 else tuple(values))


@pytest.mark.parametrize(
    ("mood", "start"),
    [
        ("good", "works"),
        ("breaks", "fails: ZeroDivisionError: oh"),
        ("leaks", "fails: a row alone"),
        ("infinite", "fails"),
    ],
)
def test_every_cell_says_what_came_of_it(mood, start):
    found = universality([Moody(mood=mood)])
    cells = found.source["universality"]["cells"]["test-moody"]
    assert list(cells) == NAMES
    assert all(state.startswith(start) for state in cells.values()), cells
    assert found.values.item() == float(mood == "good")


def test_counts_are_those_by_hand():
    found = px.explain(NET, drawn(1, 2).float(), Universality(of=Moody(mood="refuses")))
    pictures = [a.name for a in ARCHITECTURES if a.kind in ("image", "two inputs")]
    assert {n for n, s in found.source["cells"].items() if s.startswith("refused")} == set(pictures)
    assert found.source["cells"]["capsules"] == "refused: The 'inputs' must be no pictures."
    count = len(NAMES) - len(pictures)
    assert found.values.item() == pytest.approx(count / len(NAMES))
    assert found.facts["refused"].item() == len(pictures)
    assert found.facts["failed"].item() == 0
    assert found.parts["works"].isnan().sum().item() == len(pictures)


def test_the_interval_is_wilson_s():
    low, high = wilson(0.75, 16)  # by the formula, with z² = 3.8415: (p + z²/2n ± z √(pq/n + z²/4n²)) / (1 + z²/n)
    middle, half = 0.75 + 3.8415 / 32, 1.96 * math.sqrt(0.1875 / 16 + 3.8415 / (4 * 256))
    assert (low, high) == pytest.approx(
        ((middle - half) / (1 + 3.8415 / 16), (middle + half) / (1 + 3.8415 / 16)), rel=1e-4
    )
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_methods_that_ask_work_where_gradients_are_not():
    found = universality(
        ["feature-ablation", "vanilla-gradient", "grad-cam"], ["decision tree", "convolutional", "function"]
    )
    assert found.parts["works"].nan_to_num(-1).tolist() == [[1, 1, 1], [-1, 1, -1], [-1, 1, -1]]
    assert "gradient" in found.source["universality"]["cells"]["vanilla-gradient"]["function"]


def test_the_caller_s_own_model_can_be_asked_about():
    found = universality(["vanilla-gradient", "cam"], {"mine": (NET, drawn(4, 2).float())})
    assert found.source["universality"]["architectures"] == ["mine"]
    assert found.values.tolist() == [1.0, 0.0]


def test_architectures_are_the_same_every_time_and_leave_no_trace():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    for a in ARCHITECTURES:
        rows = a.rows(3)
        given = rows if isinstance(rows, tuple) else (rows,)
        one, two = (torch.as_tensor(a.build()(*given)) for _ in range(2))
        assert torch.equal(one, two), a.name
        assert one.shape == (3, 3)
        assert one.isfinite().all()
        again = a.rows(5)
        assert torch.equal((again[0] if isinstance(again, tuple) else again)[:3], given[0]), a.name
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(KINDS) == {"table", "image", "sequence", "text", "graph", "two inputs"}


def test_the_stored_table_has_every_method_that_explains_and_no_empty_cell():
    path = Path(__file__).parents[3] / "docs" / "universality.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["architectures"] == NAMES
    for name, row in stored["cells"].items():
        assert list(row) == NAMES, name
        assert all(s.split(":")[0] in ("works", "refused") for s in row.values()), (name, row)
    known = {n for n, m in registered().items() if m.card.form in FORMS and m.__module__.startswith("pellucid.")}
    assert len(set(stored["cells"]) & known) > 0.8 * len(known)  # made anew with each release, by `make universality`


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda: universality([]), "at least one"),
        (lambda: universality(["infidelity"]), "explain"),
        (lambda: universality(["cam"], ["steam engine"]), "among"),
        (lambda: universality(["cam"], {}), "at least one"),
        (lambda: universality(["cam"], {"mine": NET}), "model, inputs"),
        (lambda: px.explain(NET, torch.ones(1, 2), Universality(architectures=("none",))), "among"),
        (lambda: px.explain(NET, torch.ones(1, 2), Coverage(types="yes")), "types"),
    ],
)
def test_what_can_not_be_asked_is_refused(ask, word):
    with pytest.raises(PellucidError, match=word):
        ask()


# --- coverage -------------------------------------------------------------------------------------------------------


def root(x):
    return torch.stack([x[:, 0].sqrt(), x[:, 1]], 1)


def test_a_row_without_a_score_does_not_take_the_others_with_it():
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 1.0], [-2.0, 0.0]])
    found = px.explain(
        root,
        x,
        Coverage(
            of="feature-ablation",
        ),
        target=1,
    )
    with pytest.raises(NumericalError):
        px.explain(root, x, "feature-ablation", target=1)
    assert found.values.tolist() == [float(row > 0) for row in x[:, 0].tolist()]
    assert set(found.source["reasons"]) == {"1", "3"}
    assert "finite" in found.source["reasons"]["1"]
    assert (found.source["explained"], found.source["rows"]) == (2, 4)


def test_targets_of_rows_stay_theirs():
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 1.0]])
    found = px.explain(root, x, Coverage(of="feature-ablation"), target=torch.tensor([1, 1, 0]))
    assert found.values.tolist() == [1.0, 0.0, 1.0]


def test_where_nothing_can_be_explained_the_reason_is_raised():
    with pytest.raises(NumericalError):
        px.explain(root, -torch.ones(2, 2), Coverage(of="feature-ablation"), target=0)


@dataclass(frozen=True, eq=False)
class Partial(RuleStructure):
    """Speaks for rows whose first column is above a threshold."""

    kind: ClassVar[str] = "test-partial"
    threshold: float = 0.5

    def predict(self, inputs):
        return torch.where(inputs[:, 0] > self.threshold, 1, -1)

    def size(self):
        return {"rules": 1}

    def text(self, features=(), classes=()):
        return ["if the first column is above the threshold: 1"]


@dataclass(frozen=True, kw_only=True)
class OneRule(Method):
    """A rule set that says nothing of most rows."""

    card: ClassVar[Card] = card("test-one-rule", form="rules", scope="global")

    def explain(self, subject, ask, state):
        return Rules(structure=Partial(), fidelity=1.0)


def test_rules_cover_the_rows_that_they_speak_for():
    x = drawn(20, 2).float()
    found = px.explain(NET, x, Coverage(of=OneRule()))
    assert found.values.tolist() == [float(v > 0.5) for v in x[:, 0].tolist()]
    assert set(found.source["reasons"].values()) == {"no rule speaks for it"}
    assert 0 < found.values.mean() < 1


def test_types_of_data_are_counted():
    found = px.explain(NET, drawn(2, 2).float(), Coverage(of=Moody(mood="refuses"), types=True))
    table = found.source["types"]
    assert {k: (v["explained"], v["of"]) for k, v in table.items()} == {
        "table": (4, 4), "image": (0, 4), "sequence": (3, 3), "text": (1, 1), "graph": (1, 1), "two inputs": (0, 1)
    }  # fmt: skip
    assert len(table["image"]["reasons"]) == 4
    assert found.facts["share"].tolist() == pytest.approx([4 / 6] * 2)
