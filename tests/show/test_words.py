"""Words match figures: gaps, errors, fidelity, margins; foreign text can't hide; audiences are the two there are."""

from __future__ import annotations

import pytest
import torch

import pellucid as px
from pellucid.contract import Attribution, Context, Measure, Rules
from pellucid.contract.errors import InputError
from pellucid.show import words
from pellucid.show.answer import answers, confidence
from pellucid.show.parts import parts
from show.samples import forms, images, stump


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        (-2.5, "−2.5"),
        (1234.5, "1,234"),
        (0.00123456, "0.00123"),
        (3e-9, "3.00 × 10⁻⁹"),
        (2e6, "2.00 × 10⁶"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert words.number(value) == text


def test_percentages_never_round_to_certainty() -> None:
    assert words.percent(1.0) == "100 %"
    assert words.percent(0.0) == "0 %"
    assert words.percent(0.62) == "62 %"
    assert words.percent(0.99999) == "over 99.9 %"
    assert words.percent(1e-5) == "under 0.1 %"


def test_hidden_characters_become_visible() -> None:
    shown = words.clean("a\u202eb\x1bc\x00d\ne\ufefff\ud800")
    assert shown == "a⟨U+202E⟩b⟨U+001B⟩c⟨U+0000⟩d e⟨U+FEFF⟩f⟨U+D800⟩"
    assert len(words.clean("x" * 10_000)) == words.LONGEST + 1


def test_folders_are_left_out() -> None:
    assert words.placeless("no /home/ann/models/net.pt here") == "no …/net.pt here"
    assert words.placeless(r"C:\Users\ann\net.pt") == "…/net.pt"
    assert words.placeless("https://a.example/b/c and 1/2") == "https://a.example/b/c and 1/2"


@pytest.mark.parametrize(
    ("gap", "said"),
    [(0.001, "almost exactly"), (0.03, "to within 3 %"), (0.15, "only roughly"), (0.34, "a big gap of 34 %")],
)
def test_a_gap_is_said_as_large_as_it_is(gap: float, said: str) -> None:
    told = images(rows=1).replace(facts={"relative_gap": torch.tensor([gap])}).describe()
    assert said in told
    assert ("big gap" in told) == (gap > 0.2)


def test_the_worst_row_speaks_for_all() -> None:
    told = images(rows=3).replace(facts={"relative_gap": torch.tensor([0.0, 0.5, 0.1])}).describe()
    assert "For the worst of the 3 rows" in told
    assert "50 %" in told


@pytest.mark.parametrize(("error", "said"), [(0.01, "small error"), (0.2, "noticeable error"), (0.9, "big error")])
def test_a_standard_error_is_compared_with_the_largest_value(error: float, said: str) -> None:
    result = Attribution(values=torch.tensor([[1.0, -0.5]]), facts={"standard_error": torch.tensor([error])})
    assert said in result.describe()
    assert f"{words.percent(error)} of the largest value" in result.describe()


def test_fidelity_is_said_as_it_was_measured() -> None:
    assert "66 % of cases: it often disagrees" in Rules(structure=stump(), fidelity=0.66).describe()
    assert "97 % of cases: it follows the network closely" in Rules(structure=stump(), fidelity=0.97).describe()


def test_a_result_without_a_measured_error_says_so() -> None:
    assert "It measures no error of its own" in Attribution(values=torch.ones(1, 2)).describe()


def test_the_answer_its_confidence_and_what_came_second() -> None:
    output = torch.tensor([[2.0, 2.1, -9.0], [9.0, 0.0, 0.0]])
    close, clear = answers(Context(output=output, classes=("a", "b", "c")), 2)
    assert (close.name, close.second_name) == ("b", "a")
    assert close.margin == pytest.approx(0.1, abs=1e-6)
    assert close.share == pytest.approx(float(torch.softmax(output[0], 0)[1]))
    assert "almost level with “a”" in close.sentence()
    assert "far ahead of" in clear.sentence()


def test_confidence_leaves_probabilities_as_they_are() -> None:
    shares = torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(confidence(shares), shares)
    scores = torch.tensor([[0.2, 0.8], [1.0, 3.0]], dtype=torch.float64)
    assert torch.allclose(confidence(scores), torch.softmax(scores, 1))


def test_a_row_of_logits_that_sums_to_one_by_chance_is_no_row_of_probabilities() -> None:
    output = torch.tensor([[0.0, 1.0], [3.0, -2.0]])
    first = answers(Context(output=output, classes=("a", "b")), 1)[0]
    assert first.share == pytest.approx(torch.e / (1 + torch.e))
    assert confidence(torch.tensor([[0.0, 1.0], [0.3, 0.7]])).tolist() == [
        [0.0, 1.0],
        [pytest.approx(0.3), pytest.approx(0.7)],
    ]


def test_regression_and_unknown_outputs() -> None:
    assert answers(Context(output=torch.tensor([[0.5]])), 1)[0].sentence() == "The network answered 0.5."
    assert answers(Context(), 2)[1].sentence() == ""


def test_where_an_image_speaks() -> None:
    values = torch.zeros(1, 1, 9, 9)
    values[..., :3, :3], values[..., 6:, 6:] = 1.0, -1.0
    told = images(rows=1).replace(values=values).describe()
    assert "raised “cat” most: the upper left (100 % of it)" in told
    assert "lowered “cat” most: the lower right (100 % of it)" in told


def test_which_features_speak_with_value_and_amount() -> None:
    known = Context(inputs=torch.tensor([[7.0, 8.0]]), features=("age", "weight"))
    told = Attribution(values=torch.tensor([[0.25, -4.0]]), context=known).describe()
    assert "raised the score most: age = 7 (+0.25)" in told
    assert "lowered the score most: weight = 8 (−4)" in told


def test_limits_come_from_the_card() -> None:
    from pellucid.contract import by_name

    for limit in by_name("integrated-gradients").card.limits:
        assert limit in images().describe()


def test_words_for_laypeople_are_free_of_terms() -> None:
    told = images().describe().lower().replace("integrated gradients", "")
    own = [line for line in told.splitlines() if not line.startswith(("what was asked", "what it can't"))]
    for term in ("logit", "softmax", "gradient", "baseline", "tensor", "attribution", "completeness"):
        assert term not in "\n".join(own)


def test_engineers_get_figures_of_each_row() -> None:
    result = images(rows=2)
    told = result.describe("engineer")
    assert "seed: 0" in told
    assert told.count("relative gap 0.4") == 2
    assert f"sum {words.number(float(result.values[1].double().sum()), 4)}" in told


def test_rows_beyond_the_limit_are_counted() -> None:
    assert "4 more rows not told here." in images(rows=12).describe()
    assert "2 more rows not listed" in images(rows=10).describe("engineer")


@pytest.mark.parametrize("audience", ["child", "", None])
def test_another_audience_is_refused_with_the_list(audience: object) -> None:
    with pytest.raises(InputError, match="'layperson', 'engineer'"):
        images().describe(audience)  # type: ignore[arg-type]


def test_all_forms_have_words_for_both() -> None:
    for name, result in forms().items():
        assert result.describe(), name
        assert result.describe("engineer"), name


def test_an_unknown_option_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="rows"):
        px.show.figure(Measure(values=torch.ones(1)), colour="red")


def test_features_are_the_words_of_token_numbers_where_nothing_else_can_be_meant() -> None:
    ids, names = torch.tensor([[2, 1, 0, 0]]), ("<pad>", "good", "very")
    (part,) = parts(
        Attribution(values=torch.tensor([[1.0, 2.0, 0.0, 0.0]]), context=Context(inputs=ids, features=names))
    )
    assert [part.label(i, 0) for i in range(4)] == ["very", "good", "<pad>", "<pad>"]
    assert part.length(0) == 2
    marked = parts(Attribution(values=torch.ones(1, 4), context=Context(inputs=ids, features=names)))[0]
    assert marked.length(0) == 4, "padding that got something is shown"
    both = Context(inputs={"ids": ids, "table": torch.ones(1, 3)}, features=names)
    assert parts(Attribution(values={"ids": torch.ones(1, 4)}, context=both))[0].label(0, 0) == "#2"
    positions = Context(inputs=ids, features=("one", "two", "three", "four"))
    assert parts(Attribution(values=torch.ones(1, 4), context=positions))[0].label(0, 0) == "one"
