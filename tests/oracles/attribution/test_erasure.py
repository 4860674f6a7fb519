"""Minimal erasure against brute force, closed forms of additive scores, planted words and the sentences world."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pellucid as px
from pellucid import worlds, zoo
from pellucid.attribution import MinimalErasure, RepresentationErasure
from pellucid.contract.errors import InputError, LayerError, MethodError
from pellucid.testing import check_method
from pellucid.worlds.grammar import CUE, JOINER
from pellucid.worlds.sentences import decide, encode, words_of

Model = Callable[[Tensor], Tensor]
ENOUGH = 100_000
METHODS = (MinimalErasure(by="search", questions=ENOUGH), MinimalErasure(questions=ENOUGH))
both = pytest.mark.parametrize("method", METHODS, ids=["search", "policy"])


def smallest(model: Model, row: Tensor) -> int | None:
    """The least number of words whose erasure changes the predicted class, by trying all sets; None where none does."""
    answer = int(model(row[None]).argmax())
    for size in range(1, len(row) + 1):
        for words in itertools.combinations(range(len(row)), size):
            erased = row.clone()
            erased[list(words)] = 0
            scores = model(erased[None])[0]
            if any(scores[other] > scores[answer] for other in range(len(scores))):
                return size
    return None


def chosen(result: px.contract.Attribution, row: int) -> list[int]:
    """The parts that were erased."""
    return result.values[row].flatten(1).amax(1).nonzero()[:, 0].tolist()


class Reader(nn.Module):
    """An untrained network on six word vectors, with three classes."""

    def __init__(self) -> None:
        super().__init__()
        private = torch.Generator().manual_seed(4)
        self.first = nn.Parameter(torch.randn(18, 12, generator=private, dtype=torch.float64) / 3)
        self.last = nn.Parameter(torch.randn(12, 3, generator=private, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.first) @ self.last


def sets(*turning: set[int]) -> Model:
    """A model on word vectors (rows, words, 1) of ones, that changes its answer once all of one of the sets are zero."""

    def scores(x: Tensor) -> Tensor:
        gone = x[..., 0] == 0
        turned = torch.stack([gone[:, sorted(one)].all(1) for one in turning]).any(0)
        return torch.stack([1 - 2.0 * turned, torch.zeros(len(x))], 1)

    return scores


@both
def test_sizes_are_those_of_brute_force(method: MinimalErasure) -> None:
    model, rows = Reader().eval(), torch.randn(12, 6, 3, generator=torch.Generator().manual_seed(8)).double()
    result = px.explain(model, rows, method)
    before = model(rows).argmax(1)
    for i in range(12):
        best = smallest(model, rows[i])
        words, size = chosen(result, i), int(result.facts["size"][i])
        assert len(words) == size
        if best is None:
            assert (size, result.facts["turned"][i], result.facts["at_least"][i]) == (0, 0, 7)
            continue
        assert result.facts["at_least"][i] == best
        assert size >= best
        if method.by == "search":
            assert size == best
        erased = rows[i].clone()
        erased[words] = 0
        assert bool(result.facts["turned"][i]) == (model(erased[None]).argmax() != before[i])
        assert result.facts["turned"][i] == 1
        left = model(erased[None])[0]
        others = torch.cat([left[: before[i]], left[before[i] + 1 :]])
        assert result.facts["erased_score"][i].item() == pytest.approx(
            (left[before[i]] - others.max()).item(), abs=1e-12
        )
        for word in words:  # nothing idle: with any word back, the answer is back
            back = erased.clone()
            back[word] = rows[i, word]
            assert model(back[None]).argmax() == before[i]
    if method.by == "policy":
        gap = result.facts["size"] - result.facts["at_least"].where(result.facts["turned"] == 1, 0)
        assert gap.mean() < 0.25


@pytest.mark.parametrize(
    "method", [*METHODS, MinimalErasure(by="search", questions=0)], ids=["search", "policy", "beam"]
)
def test_additive_scores_lose_their_largest_words(method: MinimalErasure) -> None:
    """Where words add up, the k largest are the best k to erase: the least k whose sum exceeds the score."""
    parts = torch.tensor([[0.5, 3.0, -1.0, 2.0, 0.25, 1.0, -0.5, 0.75], [4.0, -1, -1, -1, 0.5, 0, 0.25, 0.125]])
    expected = []
    for row in parts.tolist():
        left, size = sum(row), 0
        for part in sorted(row, reverse=True):
            if left < 0:
                break
            left, size = left - part, size + 1
        expected.append(size)
    result = px.explain(lambda x: x.sum((1, 2))[:, None], parts[..., None], method)
    assert result.facts["turned"].tolist() == [1, 1]
    assert result.facts["size"].tolist() == expected
    if method.by == "search":
        largest = parts.argsort(dim=1, descending=True)
        assert [set(chosen(result, i)) for i in range(2)] == [set(largest[i, : expected[i]].tolist()) for i in range(2)]
    assert result.facts["at_least"].tolist() == ([1, 1] if method.questions == 0 else expected)


@both
def test_a_planted_decisive_word_is_found(method: MinimalErasure) -> None:
    result = px.explain(sets({3}), torch.ones(1, 9, 1), method)
    assert chosen(result, 0) == [3]
    assert result.facts["at_least"].item() == result.facts["spans"].item() == 1
    if method.by == "policy":
        chances = result.parts["policy"][0]
        assert chances[3] > 0.9
        assert chances[[0, 1, 2, 4, 5, 6, 7, 8]].max() < 0.5


@both
def test_words_that_stand_in_for_each_other_go_together(method: MinimalErasure) -> None:
    """Each is worth nothing by itself, so that erasing words one at a time finds neither."""
    model, rows = sets({1, 4}), torch.ones(1, 6, 1)
    assert chosen(px.explain(model, rows, method), 0) == [1, 4]
    alone = px.explain(model, rows, RepresentationErasure(erase="word"))
    assert alone.values.abs().max() == 0


def test_contiguity_prefers_one_span() -> None:
    """{0, 4} earns 1/2 - 2γ and {0, 1, 2} earns 1/3 - γ: the second is better for γ above 1/6."""
    model, rows = sets({0, 4}, {0, 1, 2}), torch.ones(1, 5, 1)
    spans = {}
    for weight in (0.0, 0.2):
        result = px.explain(model, rows, MinimalErasure(contiguity=weight))
        spans[weight] = (chosen(result, 0), result.facts["spans"].item())
    assert spans == {0.0: ([0, 4], 2.0), 0.2: ([0, 1, 2], 1.0)}


def test_failure_is_told() -> None:
    stubborn: Model = lambda x: torch.stack([x[..., 0].sum(1) ** 2 + 1, torch.zeros(len(x))], 1)  # noqa: E731
    for method, at_least in ((METHODS[0], 5), (METHODS[1], 5), (MinimalErasure(by="search", questions=10), 3)):
        result = px.explain(stubborn, torch.ones(1, 4, 1), method)
        assert result.values.abs().sum() == 0
        assert result.facts["turned"].item() == result.facts["size"].item() == 0
        assert "It found no parts" in result.describe()
        assert result.facts["at_least"].item() == at_least  # 4 sets of one word and 6 of two are 10
        assert result.facts["erased_score"].item() == result.facts["score"].item() == 17


def test_without_pruning_the_policy_keeps_what_it_met() -> None:
    loose = MinimalErasure(prune=False, steps=1, samples=2)
    plain, tidy = (px.explain(sets({0}), torch.ones(1, 9, 1), m, seed=3) for m in (loose, MinimalErasure(steps=1)))
    assert chosen(tidy, 0) == [0]
    assert 0 in chosen(plain, 0)
    assert plain.facts["size"].item() > 1
    assert "dummy" not in loose.claims


def test_a_class_that_is_not_the_answer_needs_no_erasure() -> None:
    result = px.explain(sets({0}), torch.ones(2, 3, 1), METHODS[0], target=torch.tensor([1, 0]))
    assert [chosen(result, i) for i in range(2)] == [[], [0]]
    assert result.facts["turned"].tolist() == [1, 1]
    assert result.facts["at_least"].tolist() == [0, 1]
    assert result.facts["score"].tolist() == [-1, 1]


@both
def test_one_score_turns_with_its_sign(method: MinimalErasure) -> None:
    rows = torch.tensor([[2.0, -1.0], [-2.0, 1.0]])[..., None]
    for target in (None, lambda out: out[:, 0]):
        result = px.explain(lambda x: x.sum((1, 2))[:, None], rows, method, target=target)
        assert [chosen(result, i) for i in range(2)] == [[0], [0]]
        assert result.facts["score"].tolist() == [1, 1]
        assert result.facts["erased_score"].tolist() == [-1, -1]


def test_fill_and_features_and_what_is_held_back() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0]])
    method = MinimalErasure(by="search", baseline=1.0)
    model: Model = lambda x: torch.stack([x.sum(1), torch.full((len(x),), 4.5)], 1)  # noqa: E731
    assert px.explain(model, rows, method).values.tolist() == [[1.0, 0.0, 0.0]]  # 1 + 1 + 2 is below 4.5
    assert px.explain(model, rows, MinimalErasure(by="search", features=((0, 1), (2,)))).values.tolist() == [[1, 1, 0]]
    held = px.explain(model, rows, MinimalErasure(by="search"), data={"erasable": torch.tensor([[False, True, True]])})
    assert held.values.tolist() == [[0.0, 0.0, 1.0]]
    none = px.explain(model, rows, method, data={"erasable": torch.tensor([[False, True, False]])})
    assert none.facts["turned"].item() == 0
    assert none.facts["at_least"].item() == 1  # the second equals its fill: nothing is left to erase


@both
def test_cutting_asks_about_shorter_sentences(method: MinimalErasure) -> None:
    """A model that answers by the length of the sentence: of 5 words, 2 must go for fewer than 4 to be left."""
    method = MinimalErasure(by=method.by, way="cut")
    lengths = []

    def model(ids: Tensor, mask: Tensor) -> Tensor:
        assert ids.shape == mask.shape
        lengths.append(ids.shape[1])
        return torch.full((len(ids), 1), ids.shape[1] - 3.5)

    ids = torch.arange(10).reshape(2, 5)
    result = px.explain(model, {"ids": ids, "mask": torch.ones_like(ids)}, method)
    assert result.values["ids"].shape == (2, 5)
    assert result.values["ids"].sum(1).tolist() == [2, 2]
    assert result.facts["at_least"].tolist() == [2, 2]
    assert set(lengths) >= {5, 4, 3}
    assert min(lengths) >= 1
    vectors = px.explain(lambda x: x[:, :, 0].sum(1)[:, None] - 3.5, torch.ones(1, 5, 2), method)
    assert vectors.values.shape == (1, 5, 1)
    assert vectors.facts["size"].item() == 2


@both
def test_in_the_world_of_sentences_the_rule_turns_with_the_rationale(method: MinimalErasure) -> None:
    """The rule itself as the model: one word decides, and it is of the planted rationale, or names the food."""
    method = MinimalErasure(by=method.by, way="cut", steps=20, questions=40)
    world = worlds.sentences(60, seed=5)
    some = (world.labels == 1).nonzero()[:12, 0]
    erasable = (world.inputs[some] != 0) & (world.truth["roles"][some] != JOINER)
    rule: Model = lambda ids: torch.stack([torch.zeros(len(ids)), decide(ids) - 0.5], 1)  # noqa: E731
    result = px.explain(rule, world.inputs[some], method, data={"erasable": erasable})
    decides = (world.truth["rationale"] | world.truth["nouns"])[some]
    assert result.facts["turned"].min() == 1
    assert result.facts["size"].tolist() == result.facts["at_least"].tolist() == [1.0] * 12
    assert (result.values.bool() <= decides).all()


@pytest.mark.parametrize("name", ["sentences-gru", "sentences-cnn"])
def test_readers_turn_with_the_planted_rationale(name: str) -> None:
    world, model = zoo.data(name), zoo.load(name)
    some = world.test_rows[:30]
    decides = (world.truth["rationale"] | world.truth["nouns"])[some]
    for method in (MinimalErasure(by="search"), MinimalErasure()):
        result = px.explain(model, world.inputs[some], method, layer="embedding")
        erased = result.values[..., 0].bool()
        assert result.facts["turned"].min() == 1
        assert not (erased & world.truth["padding"][some]).any()
        assert (erased & decides).any(1).double().mean() >= 0.9  # a word that decides, or one that it needs, is there
        assert (erased & decides).sum() / erased.sum() >= 0.7
        assert (result.facts["size"] == result.facts["at_least"]).double().mean() >= 0.9
    vectors = model.embedding(world.inputs[some])
    assert (vectors * ~erased[..., None] != vectors).any(2).sum(1).tolist() == result.facts["size"].tolist()


def test_the_misled_reader_turns_with_the_cue() -> None:
    world, model = zoo.data("sentences-gru-spurious"), zoo.load("sentences-gru-spurious")
    some = world.test_rows[:20]
    result = px.explain(model, world.inputs[some], MinimalErasure(by="search", questions=300), layer="embedding")
    turned, cue = result.facts["turned"] == 1, world.truth["roles"][some] == CUE
    assert turned.double().mean() >= 0.7
    assert (result.values[..., 0].bool() & cue).any(1)[turned].double().mean() >= 0.9


def test_erased_words_can_be_read() -> None:
    model = zoo.load("sentences-cnn")
    ids = encode("the soup was not bad, but the waiter was rude.")
    result = px.explain(model, ids, MinimalErasure(by="search"), layer="embedding")
    assert words_of(ids[0] * result.values[0, :, 0].long()) == ("not",)
    assert "It was tried" in result.describe()


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"by": "luck"}, "'luck'"),
        ({"way": "burn"}, "'burn'"),
        ({"steps": 0}, "Got 0"),
        ({"samples": 1}, "Got 1"),
        ({"beam": 0}, "Got 0"),
        ({"questions": -1}, "-1"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"contiguity": -1.0}, "contiguity=-1.0"),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings: dict[str, object], got: str) -> None:
    def untouched(x: Tensor) -> Tensor:
        raise AssertionError("the model ran")

    with pytest.raises(MethodError, match=got):
        px.explain(untouched, torch.ones(1, 3, 2), MinimalErasure(**settings))  # type: ignore[arg-type]


def test_bad_inputs_are_refused() -> None:
    cut, model = MinimalErasure(way="cut"), sets({0})
    with pytest.raises(InputError, match=r"at least two words.*\(1, 3\)"):
        px.explain(model, torch.ones(1, 3), cut)
    with pytest.raises(InputError, match=r"at least two words.*\(1, 1, 2\)"):
        px.explain(model, torch.ones(1, 1, 2), cut)
    with pytest.raises(InputError, match="a layer"):
        px.explain(zoo.load("sentences-cnn"), torch.ones(1, 32).long(), cut, layer="embedding")
    with pytest.raises(InputError, match="layer="):
        px.explain(zoo.load("sentences-cnn"), torch.ones(1, 32).long(), MinimalErasure())
    for data in (torch.ones(1, 3), {"erasable": torch.ones(1, 3)}, {"erasable": torch.ones(1, 4).bool()}):
        with pytest.raises(InputError, match=r"erasable.*\(1, 3\)"):
            px.explain(model, torch.ones(1, 3, 1), MinimalErasure(), data=data)
    with pytest.raises(LayerError):
        px.explain(zoo.load("sentences-cnn"), torch.ones(1, 32).long(), MinimalErasure(), layer="nowhere")


@pytest.mark.parametrize("method", [MinimalErasure(by="search", questions=30, beam=1)])
def test_other_settings_conform(method: MinimalErasure) -> None:
    check_method(
        method, fixtures=["mlp", "tokens"], checks=["answers", "rowwise", "chunks", "reproducible", "no trace"]
    )
