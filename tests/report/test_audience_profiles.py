"""One explanation, several readers: golden views, budgets kept, nothing lost for experts, templates with fallbacks."""

import json

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError
from pellucid.report import PROFILES, Profile, Templates, Vocabulary, view
from pellucid.report.audience_profiles import STANDARD, tensor

NAMES = ("age", "dose", "weight", "<b>pulse", "height", "income", "day")


def subject():
    net = nn.Linear(7, 2).eval()
    net.weight.data = torch.stack([torch.zeros(7), torch.tensor([3.0, -2.0, 1.0, 0.5, 0.25, 0.125, 0.0])])
    net.bias.data = torch.zeros(2)
    return px.Subject(net, features=NAMES, classes=("well", "ill"))


def explained():
    return px.explain(subject(), torch.ones(2, 7), "gradient-x-input", target=1)


GOLDEN = """\
The network answered “ill” with 95 % confidence, clearly ahead of “well” at 5.3 %.
▲ age
▼ dose
▲ weight
▲ <b>pulse
▲ height"""


def test_a_normal_user_gets_the_answer_and_a_few_clues():
    found = view(explained(), "normal user")
    assert found.text().startswith(GOLDEN)
    assert found.words <= PROFILES["normal user"].words
    assert sum(line[0] in "▲▼" for line in found.lines) == PROFILES["normal user"].terms
    assert found.data is None
    for jargon in ("float32", "hash", "gradient", "settings", "seed"):
        assert jargon not in found.text()


@pytest.mark.parametrize(
    ("name", "data"),
    [("gradient-x-input", False), ("cart-c45-surrogate", True), ("insertion-deletion", False), ("trust-score", True)],
)
def test_every_form_keeps_to_words_and_terms(name, data):
    x = torch.randn(60, 7, generator=torch.Generator().manual_seed(0))
    known = {"data": (x, subject().model(x).argmax(1))} if data else {}
    found = px.explain(subject(), x[:3], name, **known)
    for budget in (12, 30, 60):
        seen = view(found, Profile(name="normal user", words=budget, terms=2), row=2)
        assert seen.words <= budget
        assert seen.left_out > 0 or len(seen.lines) > 0
    assert view(found, Profile(name="normal user", words=1)).lines == ()


def test_an_expert_loses_nothing():
    result = explained()
    data = json.loads(json.dumps(view(result, "expert").data))
    assert torch.equal(tensor(data["values"]), result.values)
    assert {k: tensor(v) for k, v in data["facts"].items()}.keys() == result.facts.keys()
    assert all(torch.equal(tensor(v), result.facts[k]) for k, v in data["facts"].items())
    assert torch.equal(tensor(data["context"]["inputs"]), result.context.inputs)
    assert data["source"]["method"] == "gradient-x-input"
    assert data["source"]["model_hash"] == result.source["model_hash"]
    assert "check before revising the model" in view(result, "expert").text()


def test_the_reader_is_named_and_never_guessed():
    with pytest.raises(TypeError):
        view(explained())
    for wrong in ("", "Expert", None, 3):
        with pytest.raises(InputError, match="profile"):
            view(explained(), wrong)
    with pytest.raises(InputError, match="row"):
        view(explained(), "expert", row=2)


def test_every_reader_and_problem_has_a_template():
    problems = ["attribution", "semantics", "rules", "examples", "text", "measure", "triage"]
    matrix = STANDARD.coverage([*PROFILES, "nurse"], problems)
    assert set(matrix) == {(a, b) for a in [*PROFILES, "nurse"] for b in problems}
    assert matrix["normal user", "attribution"] == ("normal user", "attribution")
    assert matrix["expert", "triage"] == ("expert", "*")
    assert matrix["nurse", "triage"] == ("*", "*")


def test_fallbacks_are_used_in_order():
    mine = Templates()
    mine = mine.add("*", "triage", lambda result, row, profile: ["anybody's triage"])
    assert view(explained(), "normal user", problem="triage", templates=mine).lines == ("anybody's triage",)
    mine = mine.add("normal user", "*", lambda result, row, profile: ["a normal user's anything"])
    assert view(explained(), "normal user", problem="triage", templates=mine).template == ("normal user", "*")
    mine = mine.add("normal user", "triage", lambda result, row, profile: ["a normal user's triage"])
    assert view(explained(), "normal user", problem="triage", templates=mine).lines == ("a normal user's triage",)
    assert view(explained(), "expert", problem="triage", templates=mine).lines == ("anybody's triage",)
    assert view(explained(), "expert", problem="another", templates=mine).template == ("*", "*")
    with pytest.raises(InputError, match="template"):
        mine.add("nurse", "triage", "text")


def test_the_users_words_are_the_clues():
    named = Vocabulary.of({"feature:age": "years of age", "class:ill": "has a fever"}).apply(subject())
    found = view(px.explain(named, torch.ones(1, 7), "gradient-x-input", target=1), "normal user")
    assert "▲ years of age" in found.lines
    assert "“has a fever”" in found.lines[0]
