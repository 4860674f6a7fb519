"""Omission scores against averages of vectors computed one sentence at a time."""

import pytest
import torch
from torch import nn

import pellucid as px
from nets import sequence
from pellucid.attribution import MinimalErasure, OmissionScore
from pellucid.contract.errors import InputError, MethodError

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Mean(nn.Module):
    """The mean of the words' vectors, where a mask allows, as the sentence; then class scores."""

    def __init__(self):
        super().__init__()
        self.embedding, self.sentence, self.head = nn.Embedding(9, 4), nn.Identity(), nn.Linear(4, 2)
        self.double().eval()
        self.embedding.weight.data = rows(9, 4, seed=3)
        self.embedding.weight.data[8] = 0

    def forward(self, ids, mask=None):
        mask = torch.ones_like(ids) if mask is None else mask
        return self.head(self.sentence((self.embedding(ids) * mask[..., None]).sum(1)))


IDS = torch.tensor([[1, 2, 3, 8], [5, 5, 6, 7]])
MODEL = Mean()


def by_hand(vectors):
    whole = sum(vectors)
    found = []
    for i in range(len(vectors)):
        left = sum(v for j, v in enumerate(vectors) if j != i)
        found.append(1 - float(whole @ left / (whole.norm() * left.norm())))
    return found


@pytest.mark.parametrize("layer", [None, "embedding"])
@pytest.mark.parametrize("way", ["cut", "zero"])
def test_bag_of_vectors_in_closed_form(way, layer):
    if way == "zero" and layer is None:
        with pytest.raises(InputError, match="sentences"):
            px.explain(MODEL, IDS, OmissionScore(way=way))
        return
    got = px.explain(MODEL, IDS, OmissionScore(representation="sentence", way=way), layer=layer)
    want = torch.tensor([by_hand(list(MODEL.embedding.weight.detach()[ids])) for ids in IDS], **DOUBLE)
    values = got.values if layer is None else got.values[..., 0]
    assert got.values.shape == ((2, 4) if layer is None else (2, 4, 1))
    assert torch.allclose(values.double(), want, atol=1e-6 if layer is None else 1e-12)
    assert abs(values[0, 3]) < 1e-12  # a word without effect
    assert torch.allclose(values[1, 0], values[1, 1])  # a word that is there twice
    assert torch.allclose(got.facts["largest"], want.amax(1))
    assert torch.allclose(torch.tensor(got.source["positions"], **DOUBLE), want.mean(0))


def test_the_order_of_words_counts_where_it_does():
    model, x = sequence.FLOAT["lstm"](), sequence.sentences(2)
    got = px.explain(model, x, "omission-score").values
    for i in range(2):
        for t in range(5):
            left = torch.cat([x[i, :t], x[i, t + 1 :]])[None]
            want = 1 - torch.cosine_similarity(model(x[i : i + 1]), model(left), dim=1)
            assert abs(got[i, t, 0] - want) < 1e-12


def test_masks_are_cut_with_the_words():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]])
    got = px.explain(MODEL, {"ids": IDS, "mask": mask}, OmissionScore(representation="sentence"))
    vectors = MODEL.embedding.weight.detach()
    for i in range(2):
        want = by_hand(list(vectors[IDS[i]] * mask[i][:, None]))
        assert torch.allclose(got.values["ids"][i].double(), torch.tensor(want, **DOUBLE), atol=1e-6)
    assert abs(got.values["ids"][1, 1]) < 1e-12


def test_tables_by_label():
    tags = [["noun", "verb", "noun", None], ["noun", "verb", "verb", "verb"]]
    got = px.explain(MODEL, IDS, OmissionScore(representation="sentence"), layer="embedding", data={"tag": tags})
    table, x = got.source["tables"]["tag"], got.values[..., 0]
    nouns = torch.stack([x[0, 0], x[0, 2], x[1, 0]])
    half = 1.96 * float(nouns.std()) / 3**0.5
    assert table["noun"]["count"] == 3
    assert abs(table["noun"]["mean"] - float(nouns.mean())) < 1e-12
    assert abs(table["noun"]["high"] - float(nouns.mean()) - half) < 1e-12
    assert table["verb"]["count"] == 4
    with pytest.raises(InputError, match="lists of 4"):
        px.explain(MODEL, IDS, OmissionScore(), data={"tag": tags[:1]})


def test_representations_that_are_no_vector_are_refused():
    with pytest.raises(InputError, match="one vector per sentence"):
        px.explain(MODEL, IDS, OmissionScore(representation="embedding"))
    with pytest.raises(InputError, match="two words"):
        px.explain(MODEL, IDS[:, :1], OmissionScore())
    with pytest.raises(MethodError, match="way"):
        px.explain(MODEL, IDS, OmissionScore(way="drop"))


@pytest.mark.parametrize("method", [OmissionScore(), MinimalErasure(way="cut", by="search")])
def test_a_model_for_sentences_of_one_length_is_refused_by_name(method):
    class Fixed(nn.Module):
        """Flattens the words: it takes five."""

        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(20, 2)
            self.double().eval()

        def forward(self, ids):
            return self.head(self.embedding(ids).flatten(1))

    ids = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    with pytest.raises(InputError, match=r"sentences of any length.* as it takes 5.*RuntimeError.*way='(zero|fill)'"):
        px.explain(Fixed(), ids, method)
