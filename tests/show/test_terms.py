"""Terms and the places they stand for lead to each other, and an explanation told in terms keeps its sum."""

from __future__ import annotations

import pytest
import torch

import pellucid as px
from pellucid import worlds
from pellucid.contract.errors import InputError, MethodError
from pellucid.show import terms
from pellucid.show.terms import FIELDS, Term, Vocabulary
from pellucid.worlds.sentences import encode


def attribution(values: torch.Tensor) -> px.Attribution:
    return px.Attribution(values=values)


def shapes() -> worlds.World:
    return worlds.shapes(3, seed=2)


def given() -> dict[str, tuple[torch.Tensor, dict[str, object]]]:
    """An input of every vocabulary, with what it needs."""
    world, generator = shapes(), torch.Generator().manual_seed(0)
    said = worlds.sentences(3)
    return {
        "superpixels": (world.inputs, {"count": 9}),
        "concepts": (world.inputs, {"masks": world.truth["masks"]}),
        "words": (said.inputs, {"names": said.features}),
        "motifs": (torch.randint(0, 4, (3, 40), generator=generator), {"motifs": ("AC", "GNT")}),
        "columns": (torch.rand(3, 4, generator=generator), {"names": ("a", "b", "c", "d")}),
    }


def test_the_survey_s_three_fields_have_their_terms() -> None:
    wanted = {("images", "superpixels"), ("images", "concepts"), ("texts", "words"), ("sequences", "motifs")}
    assert wanted <= {(v.field, v.name) for v in FIELDS.values()}
    for word in ("colours", "textures", "materials", "parts", "objects", "scenes"):
        assert word in FIELDS["concepts"].terms
    assert set(FIELDS) == set(given())


@pytest.mark.parametrize("name", list(FIELDS))
def test_a_term_leads_to_its_places_and_a_place_to_its_terms(name: str) -> None:
    inputs, settings = given()[name]
    for row in terms.find(inputs, name, **settings):
        assert row
        assert len({t.name for t in row}) == len(row)
        for term in row:
            places = [tuple(p) for p in term.where.nonzero().tolist()]
            assert places
            assert all(term in terms.at(row, place) for place in places)
        covered = sum(t.where.long() for t in row)
        if FIELDS[name].whole and name != "words":
            assert bool((covered == 1).all())


@pytest.mark.parametrize("name", list(FIELDS))
def test_what_is_told_in_terms_sums_to_what_was_explained(name: str) -> None:
    inputs, settings = given()[name]
    values = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = terms.said(attribution(values), terms.find(inputs, name, **settings))
    for row, shares in zip(values, found, strict=True):
        assert sum(s.value for s in shares) == pytest.approx(float(row.sum()), abs=1e-9)
        assert [abs(s.value) for s in shares] == sorted((abs(s.value) for s in shares), reverse=True)


def test_words_and_their_vectors() -> None:
    ids = encode("the soup was good and the staff was bad .")
    names = worlds.sentences(2).features
    found = terms.find(ids, "words", names=names)[0]
    assert [t.name for t in found][:4] == ["the (1)", "soup", "was (1)", "good"]
    values = torch.zeros(1, 32, 5)
    values[0, 3], values[0, 8] = 1.0, -2.0
    assert [(s.name, s.value) for s in terms.said(attribution(values), [found])[0][:2]] == [
        ("bad", -10.0),
        ("good", 5.0),
    ]
    assert terms.told(attribution(values), [found]) == ["good raised and bad lowered the score."]
    assert terms.told(attribution(torch.zeros(1, 32)), [found]) == ["Nothing that has a name moved the score."]


def test_motifs_are_found_by_hand_also_where_they_overlap() -> None:
    ids = torch.tensor([["ACGT".index(c) for c in "GATATATC"]])
    found = terms.find(ids, "motifs", motifs=("TATA", "RTM", "ATAT"))[0]
    assert [t.name for t in found] == ["TATA at 3", "RTM at 2", "RTM at 4", "RTM at 6", "ATAT at 2", "ATAT at 4"]
    assert found[0].where.nonzero()[:, 0].tolist() == [2, 3, 4, 5]
    one = torch.nn.functional.one_hot(ids, 4).float()
    assert [t.name for t in terms.find(one, "motifs", motifs=("TATA",))[0]] == ["TATA at 3"]
    shares = terms.said(attribution(torch.ones(1, 8)), [found])[0]
    assert {s.name: s.value for s in shares}["everything else"] == 1.0  # the first letter alone has no motif


def test_concepts_are_the_pixels_that_were_marked() -> None:
    world = shapes()
    masks = {name: world.truth["masks"][name] for name in ("main object", "background")}
    found = terms.find(world.inputs, "concepts", masks=masks)
    values = world.truth["masks"]["main object"][:, None].double().expand(-1, 3, -1, -1) / 3
    first = terms.said(attribution(values), found)[0]
    assert first[0].name == "main object"
    assert first[0].value > 3 * abs(first[1].value)


def test_a_field_adds_terms_of_its_own_and_names_stay_text() -> None:
    def halves(x: torch.Tensor) -> list[list[Term]]:
        left = torch.arange(x.shape[1]) < x.shape[1] // 2
        return [[Term(name="left", where=left), Term(name="right", where=~left)] for _ in x]

    added = terms.register(Vocabulary(name="halves", field="lines", terms="halves", find=halves))
    try:
        found = terms.find(torch.rand(2, 6), "halves")
        assert [s.value for s in terms.said(attribution(torch.ones(2, 6)), found)[1]] == [3.0, 3.0]
        with pytest.raises(MethodError, match="vocabulary 'halves' already"):
            terms.register(added)
    finally:
        del FIELDS["halves"]
    row = terms.find(torch.rand(1, 1), "columns", names=("a\x1b[31m\u202e",))[0]
    assert row[0].name.isprintable()


@pytest.mark.parametrize(
    ("name", "inputs", "settings", "message"),
    [
        ("superpixels", torch.rand(2, 5), {}, r"images \(rows, channels"),
        ("concepts", torch.rand(2, 3, 4, 4), {"masks": {"x": torch.ones(2, 3, 3)}}, r"mask of 'x' .*\(2, 4, 4\)"),
        ("words", torch.rand(2, 5), {"names": ("a",)}, "token ids"),
        ("words", torch.full((1, 2), 7), {"names": ("a", "b")}, "ids must be from 0 to 1.*7"),
        ("motifs", torch.full((1, 5), 9), {"motifs": ("A",)}, "below 4"),
        ("motifs", torch.zeros(1, 5).long(), {"motifs": ("AX",)}, "'AX'"),
        ("columns", torch.rand(2, 3), {"names": ("a",)}, "1 columns that are named"),
    ],
)
def test_what_has_no_such_terms_is_refused(
    name: str, inputs: torch.Tensor, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        terms.find(inputs, name, **settings)


def test_unknown_vocabularies_and_foreign_rows_are_refused() -> None:
    with pytest.raises(MethodError, match=r"no such vocabulary.*'runes'.*superpixels"):
        terms.find(torch.rand(1, 2), "runes")
    row = terms.find(torch.rand(1, 2), "columns", names=("a", "b"))
    with pytest.raises(InputError, match="2 rows of terms"):
        terms.said(attribution(torch.ones(1, 2)), row * 2)
    with pytest.raises(InputError, match=r"terms' places, \(2,\) a row"):
        terms.said(attribution(torch.ones(1, 3)), row)
