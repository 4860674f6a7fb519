"""Word deletion against its definition: one text, one word and one forward at a time."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, drawn
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, TargetError
from pellucid.evaluation import WordDeletion

ON, OFF = 1, 2  # the two key words of the planted bag; 3 to 8 mean nothing, 0 is padding


class Bag(nn.Module):
    """Says class 1 where there are more of the one key word than of the other, and class 0 where there are none."""

    def __init__(self, single=False):
        super().__init__()
        self.embedding = nn.Embedding(9, 2, padding_idx=0, **DOUBLE)
        weight = torch.zeros(9, 2, **DOUBLE)
        weight[ON, 0], weight[OFF, 1] = 1.0, 1.0
        weight[3:, 0] = 1e-3  # a trace, so that no vector of a word is zero
        self.embedding.weight.data, self.single = weight, single
        self.eval()

    def forward(self, ids):
        total = self.embedding(ids).sum(1)
        for_one = total[:, 0] - total[:, 1] - 0.5
        return for_one[:, None] if self.single else torch.stack([-for_one, for_one], 1)


@dataclass(frozen=True, kw_only=True)
class Drawn(Method):
    """Figures drawn for each word, whatever it is."""

    card: ClassVar[Card] = Card(
        name="test-drawn-words",
        title="Drawn",
        question="Which figures?",
        form="attribution",
        scope="local",
        citation="none",
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Attribution(values=drawn(*ask.inputs.tensors[0].shape, 2, seed=3))


def test_the_planted_key_word_turns_the_answer_at_once():
    """“on” alone decides: it goes first where the answer is right, and where “off” hides it, “off” goes first."""
    net = Bag()
    texts = torch.tensor([[4, 1, 5, 6, 0], [3, 7, 8, 1, 4], [1, 2, 5, 0, 0], [4, 5, 6, 7, 8]])
    labels = torch.tensor([1, 1, 1, 0])  # the third is read wrongly; the last can never be turned
    found = px.explain(
        net,
        texts,
        WordDeletion(of="gradient-x-input", references=20),
        layer="embedding",
        data={"labels": labels},
    )
    assert found.facts["right"].tolist() == [1, 1, 0, 1]
    assert found.facts["words"].tolist() == [4, 5, 3, 5]
    assert found.facts["first"][:3].tolist() == [1, 1, 1]
    assert found.facts["first"][3] == -1
    assert found.values[:2].tolist() == [1, 1]
    assert found.values[2].item() == pytest.approx(2 / 3)  # “off”, a word, then “on”, and no text says class 1
    assert found.values[3].item() == 0
    assert bool((found.facts["gain"][:3] > 0.1).all())
    # In a random order the key word of the first text is as often first as second, third or fourth.
    assert abs(found.facts["random"][0].item() - (4 + 3 + 2 + 1) / 16) < 5 * found.facts["random_error"][0].item()
    assert found.parts["right"].tolist()[:2] == pytest.approx([1, 1 / 3])
    assert found.parts["wrong"].tolist() == [0, 1, 1, 0, 0, 0]
    assert found.source["target"] == [1, 1, 1, 0]


def answer(net, ids, kept):
    """The class of one text, with the vectors of the other words set to zero."""
    vectors = torch.stack(
        [net.embedding.weight[i] if k else torch.zeros(2, **DOUBLE) for i, k in zip(ids, kept, strict=True)]
    )
    with torch.no_grad():
        for_one = vectors.sum(0)[0] - vectors.sum(0)[1] - 0.5
    return int(for_one > -for_one)


def by_hand(net, ids, label, figures, way, order, steps):
    words = [place for place, i in enumerate(ids) if i != 0]
    right = answer(net, ids, [True] * len(ids)) == label
    first_high = order == "descending" or (order == "against" and (right or way == "insertion"))
    ranked = sorted(words, key=lambda place: figures[place], reverse=first_high)
    good, curve = [], []
    for count in range(min(steps, len(words)) + 1):
        chosen = ranked[:count]
        kept = [(p in chosen) == (way == "insertion") or p not in words for p in range(len(ids))]
        curve.append(answer(net, ids, kept) == label)
        good.append(curve[-1] if way == "insertion" else curve[-1] != right)
    used = good[:-1] if way == "insertion" else good[1:]
    return sum(used) / len(used), curve


@pytest.mark.parametrize("steps", [3, 50])
@pytest.mark.parametrize("order", ["against", "descending", "ascending"])
@pytest.mark.parametrize("way", ["deletion", "insertion"])
def test_shares_are_those_of_the_definition(way, order, steps):
    net = Bag()
    texts = torch.randint(1, 9, (9, 6), generator=torch.Generator().manual_seed(1))
    texts[0, 4:], texts[5, 2:] = 0, 0
    labels = torch.arange(9) % 2
    method = WordDeletion(of=Drawn(), way=way, order=order, steps=steps, references=2)
    found = px.explain(net, texts, method, layer="embedding", data={"labels": labels})
    figures = drawn(9, 6, 2, seed=3).sum(2)
    curves = []
    for row in range(9):
        want, curve = by_hand(net, texts[row].tolist(), labels[row], figures[row].tolist(), way, order, steps)
        assert found.values[row].item() == pytest.approx(want)
        curves.append((curve + [curve[-1]] * 7)[: min(steps, 6) + 1])
    assert found.parts["curve"].tolist() == curves
    right = found.facts["right"].bool()
    for name, group in (("right", right), ("wrong", ~right)):
        mean = torch.tensor(curves, **DOUBLE)[group].mean(0)
        assert torch.allclose(found.parts[name], mean)
        assert bool((found.parts[f"{name}_low"] <= mean).all() and (mean <= found.parts[f"{name}_high"]).all())


def test_rows_alone_are_as_rows_together():
    net, texts = Bag(), torch.randint(0, 9, (7, 6), generator=torch.Generator().manual_seed(2))
    texts[:, 0] = 3
    together = px.explain(net, texts, "word-deletion-evaluation", layer="embedding")
    for row in (0, 4):
        alone = px.explain(net, texts[row : row + 1], "word-deletion-evaluation", layer="embedding")
        assert torch.equal(alone.values, together.values[row : row + 1])
        assert torch.equal(alone.facts["random"], together.facts["random"][row : row + 1])
        assert torch.equal(alone.parts["curve"], together.parts["curve"][row : row + 1])


def test_without_labels_the_networks_own_answers_are_right():
    texts = torch.tensor([[1, 3, 4], [5, 2, 3]])
    found = px.explain(Bag(), texts, "word-deletion-evaluation", layer="embedding")
    assert found.facts["right"].tolist() == [1, 1]
    assert not any(name.startswith("wrong") for name in found.parts)


def test_a_single_score_is_turned_for_the_lower_class():
    """Both spellings of the same network agree, though one gives relevance for class 1 alone."""
    texts = torch.tensor([[1, 3, 4, 2], [1, 2, 2, 5], [1, 1, 2, 4]])
    labels = torch.tensor([1, 0, 0])
    two, one = (
        px.explain(Bag(single), texts, "word-deletion-evaluation", layer="embedding", data={"labels": labels})
        for single in (False, True)
    )
    assert torch.equal(two.values, one.values)
    assert torch.equal(two.facts["right"], one.facts["right"])


def test_another_token_may_take_a_words_place():
    """“off” in the place of “on” turns the answer, where an empty place does not."""
    net, texts = Bag(), torch.tensor([[1, 1, 3]])
    found = {
        token: px.explain(net, texts, WordDeletion(token=token, references=2), layer="embedding")
        for token in (None, OFF)
    }
    assert found[None].facts["first"].item() == 2
    assert found[OFF].facts["first"].item() == 1


def test_vectors_and_masks_tell_where_words_are():
    vectors = drawn(2, 4, 3)
    vectors[0, 2:] = 0
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, **DOUBLE)).eval()
    found = px.explain(net, vectors, "word-deletion-evaluation")
    assert found.facts["words"].tolist() == [2, 4]

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = Bag()

        def forward(self, input_ids, attention_mask):
            return self.bag(input_ids * attention_mask)

    given = {"input_ids": torch.tensor([[1, 3, 4, 5]]), "attention_mask": torch.tensor([[1, 1, 0, 0]])}
    found = px.explain(Masked().eval(), given, "word-deletion-evaluation", layer="bag.embedding")
    assert found.facts["words"].item() == 2


def test_truth_values_beside_vectors_are_no_ids():
    class Padded(nn.Module):
        def forward(self, vectors, is_padding):
            kept = vectors.masked_fill(is_padding[..., None], 0.0)
            return torch.stack([kept.sum((1, 2)), -kept.sum((1, 2))], 1)

    given = (drawn(2, 3, 2), torch.tensor([[False, False, False], [False, False, True]]))
    found = px.explain(Padded().eval(), given, "word-deletion-evaluation")
    assert found.facts["words"].tolist() == [3, 3]
    assert bool(torch.isfinite(found.values).all())


def test_texts_without_words_are_listed():
    found = px.explain(Bag(), torch.tensor([[0, 0], [1, 3]]), "word-deletion-evaluation", layer="embedding")
    assert math.isnan(found.values[0])
    assert found.source["overall"]["excluded"] == [0]


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"way": "up"}, None, MethodError),
        ({"order": "up"}, None, MethodError),
        ({"steps": 0}, None, MethodError),
        ({"references": 1}, None, MethodError),
        ({"token": -1}, None, MethodError),
        ({"padding": 0.5}, None, MethodError),
        ({}, {"labels": [0.5]}, InputError),
        ({}, {"labels": [0, 1]}, InputError),
        ({}, {"labels": [-1]}, InputError),
        ({"of": "cart-c45-surrogate"}, None, MethodError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, data, error):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(error):
        px.explain(never, drawn(1, 3, 2), WordDeletion(**{"of": "feature-ablation", **settings}), data=data)


def test_labels_beyond_the_classes_and_ids_without_a_layer_are_refused():
    with pytest.raises(TargetError, match="labels"):
        px.explain(Bag(), torch.tensor([[1]]), "word-deletion-evaluation", layer="embedding", data={"labels": [2]})
    with pytest.raises(InputError, match="texts"):
        px.explain(Bag(), torch.tensor([[1]]), WordDeletion(of="omission-score"))
