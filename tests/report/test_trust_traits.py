"""What there is to trust by: the schema of evidence, what results support, and which of four properties are missing."""

import json

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid import report
from pellucid.contract.errors import InputError
from pellucid.engine import as_subject
from pellucid.report import Evidence, Traits, if_then, page, rationale, traits
from pellucid.report.trust_faithful import faithful

X = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([[1.0, -1.0], [1.5, 0.2]])


def subject(**names):
    net = nn.Sequential(nn.Linear(2, 2)).eval()
    net[0].weight.data, net[0].bias.data = torch.tensor([[0.0, 0.0], [2.0, -1.0]]), torch.zeros(2)
    return px.Subject(net, **{"features": ("age", "dose"), "classes": ("well", "ill"), **names})


def explained(name, which=None, **settings):
    return px.explain(subject() if which is None else which, ROWS, name, **settings)


def labels():
    return subject().model(X).argmax(1)


def test_every_trait_is_told_and_none_is_made_up():
    told = traits()
    assert [e.mode for e in told.evidence] == ["none"] * 4
    told = traits(explained("gradient-x-input"), explained("cart-c45-surrogate", data=X))
    assert [e.mode for e in told.of("confidence")] == ["self-evident"] * 2
    assert told.of("safety")[0].mode == "none"


def test_what_was_measured_is_told_with_its_figure():
    method = px.contract.as_method("gradient-x-input")
    tried = faithful(as_subject(subject()), ROWS, method, explained("gradient-x-input"))
    score = explained("trust-score", data={"train": (X[:40], labels()[:40]), "held_out": (X[40:], 1 - labels()[40:])})
    score.source["held_out"]["auroc"] = 0.75
    told = traits(tried, score)
    (confidence,), (trust,) = told.of("confidence"), told.of("trust")
    assert (confidence.mode, confidence.value) == ("measured", tried.facts["beats_random_orders"].mean().item())
    assert (trust.mode, trust.value) == ("measured", 0.75)


def test_evidence_goes_out_and_comes_back():
    told = traits(
        explained("gradient-x-input"),
        studies=[Evidence(trait="ethics", mode="studied", by="<script>readers</script>\u202e", value=0.8, n=24)],
    )
    assert Traits.read(json.loads(json.dumps(told.as_dict()))) == told
    written = page(told.section())
    assert "studied with 24 people" in written
    assert "<script>readers" not in written
    assert "\u202e" not in written


@pytest.mark.parametrize(
    "one",
    [
        {"trait": "beauty", "mode": "none"},
        {"trait": "trust", "mode": "felt", "by": "a feeling"},
        {"trait": "trust", "mode": "measured", "by": "a figure"},
        {"trait": "trust", "mode": "measured", "by": "a figure", "value": float("nan")},
        {"trait": "trust", "mode": "measured", "value": 1.0},
        {"trait": "trust", "mode": "studied", "by": "a study"},
        {"trait": "trust", "mode": "studied", "by": "a study", "n": 0},
        {"trait": "trust", "mode": "self-evident", "by": "a map", "n": 3},
        {"trait": "trust", "mode": "none", "by": "something"},
        {"trait": "trust", "mode": "none", "more": 1},
        {"trait": "trust"},
    ],
)
def test_evidence_of_no_known_shape_is_refused(one):
    others = [{"trait": t, "mode": "none"} for t in ("confidence", "safety", "ethics")]
    with pytest.raises(InputError, match="Got"):
        Traits.read({"evidence": [*others, one]})


def test_a_list_that_lacks_a_trait_or_says_both_is_refused():
    with pytest.raises(InputError, match="nothing of safety"):
        Traits(evidence=tuple(Evidence(trait=t, mode="none") for t in ("confidence", "trust", "ethics")))
    four = [Evidence(trait=t, mode="none") for t in ("confidence", "trust", "safety", "ethics")]
    with pytest.raises(InputError, match="not both"):
        Traits(evidence=(*four, Evidence(trait="trust", mode="self-evident", by="a map")))


def test_every_page_says_what_there_is_to_trust_by(tmp_path):
    path = report(subject(), X[:1], ["gradient-x-input"], path=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "What there is to trust by" in text
    assert "nothing on this page" in text


def test_each_of_the_four_properties_is_found_where_it_is():
    maps, tree = explained("gradient-x-input"), explained("cart-c45-surrogate", data=X)
    near = explained("deep-nearest-neighbours", data=(X, labels()))
    assert rationale().missing == ("interpretable", "relatable", "contextual", "reasoned")
    assert rationale(maps).missing == ("contextual", "reasoned")
    assert rationale(maps, near).missing == ("reasoned",)
    assert rationale(maps, near, tree).missing == ()
    assert rationale(if_then(subject(), maps, X)).missing == ("relatable", "contextual")


def test_numbers_are_no_names_and_a_vocabulary_is_held_to():
    numbered = subject(features=("x1", "feature 2"))
    assert "relatable" in rationale(explained("gradient-x-input", numbered)).missing
    assert "relatable" in rationale(explained("gradient-x-input", px.Subject(subject().model))).missing
    words = {"feature:age": "years", "feature:dose": "milligrams", "class:well": "healthy"}
    assert "relatable" in rationale(explained("gradient-x-input"), vocabulary=words).missing  # "ill" has no word
    assert "relatable" not in rationale(explained("gradient-x-input"), vocabulary=words | {"class:ill": "sick"}).missing


def test_a_missing_element_is_reported_in_words():
    told = rationale(explained("gradient-x-input")).sentences()
    assert any("similar known cases" in line.lower() and "missing" in line for line in told)
    assert json.loads(json.dumps(rationale().as_dict()))["missing"][0] == "interpretable"
    with pytest.raises(InputError):
        rationale("text")
