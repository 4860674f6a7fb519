"""Documents: linear bags in closed form, vectors by loops, neighbours by scikit-learn, planted topics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from nets.stock import settle
from pellucid.attribution import DocumentRelevance, explanatory_power
from pellucid.contract.errors import InputError, MethodError

TOPICS, KEYWORDS, WORDS, LENGTH, PADDING = 3, 4, 40, 14, 39


def documents(rows, seed):
    """Word numbers: two or three keywords of the document's topic, one of another, and words of no topic; and topics."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(TOPICS * KEYWORDS, WORDS - 1, (rows, LENGTH))
    topics = draw.integers(0, TOPICS, rows)
    for row, topic in enumerate(topics):
        at = draw.permutation(LENGTH)
        for k in range(draw.integers(2, 4)):
            ids[row, at[k]] = KEYWORDS * topic + draw.integers(KEYWORDS)
        ids[row, at[5]] = KEYWORDS * ((topic + 1) % TOPICS) + draw.integers(KEYWORDS)
        ids[row, LENGTH - draw.integers(0, 3) :] = PADDING
    return torch.from_numpy(ids), torch.from_numpy(topics)


def bags(ids):
    return torch.nn.functional.one_hot(ids, WORDS).sum(1).double()[:, :PADDING]


class Reader(nn.Module):
    """Embedding, convolutions over one and two words, max over time, linear head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.convs = nn.ModuleList(nn.Conv1d(8, 12, n) for n in (1, 2))
        self.head = nn.Linear(24, TOPICS)

    def forward(self, ids):
        x = self.embedding(ids).transpose(1, 2)
        return self.head(torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1))


@pytest.fixture(scope="module")
def reader():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Reader()
        net.embedding.weight.requires_grad_(False)  # vectors that know no topics
        optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.02)
        for step in range(150):
            ids, topics = documents(128, step)
            loss = nn.functional.cross_entropy(net(ids), topics)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.double().eval()


# --- relevance of words ---


def test_linear_bags_are_weight_times_value_and_a_share_of_the_bias():
    svm, x = settle(nn.Linear(PADDING, TOPICS)), bags(documents(6, 1)[0])
    result = px.explain(svm, x, DocumentRelevance(epsilon=0.0), target=[0, 1, 2, 0, 1, 2])
    for row, topic in enumerate((0, 1, 2, 0, 1, 2)):
        present = [i for i in range(PADDING) if x[row, i] != 0]
        for i in range(PADDING):
            w, b = float(svm.weight[topic, i].detach()), float(svm.bias[topic].detach())
            want = w * float(x[row, i]) + b / len(present) if i in present else 0.0
            assert float(result.values[row, i]) == pytest.approx(want, rel=1e-12, abs=1e-12)
    assert torch.allclose(result.values.sum(1), result.facts["score"], rtol=1e-9)
    assert result.facts["conserved"].all()
    kept = px.explain(svm, x, DocumentRelevance(epsilon=0.0, bias_factor=0.0), target=1)
    assert torch.allclose(kept.values, x * svm.weight[1].detach(), rtol=1e-6)
    assert torch.allclose(kept.facts["absorbed_bias"], svm.bias[1].detach().expand(6), rtol=1e-6)


def test_an_empty_document_keeps_the_bias():
    svm = settle(nn.Linear(3, 2))
    result = px.explain(svm, torch.zeros(1, 3).double(), "lrp-document-relevance", target=0)
    assert not result.values.any()
    assert float(result.facts["absorbed_bias"]) == pytest.approx(float(svm.bias[0].detach()))


def test_a_deep_bag_gives_absent_words_nothing_and_conserves():
    net = settle(nn.Sequential(nn.Linear(PADDING, 7), nn.ReLU(), nn.Linear(7, TOPICS)))
    x = bags(documents(5, 2)[0])
    result = px.explain(net, x, "lrp-document-relevance")
    assert not result.values[x == 0].any()
    assert result.facts["conserved"].all()


def test_readers_of_vectors_are_shared_out_word_by_word(reader):
    ids, _ = documents(4, 3)
    result = px.explain(reader, ids, DocumentRelevance(epsilon=0.01), layer="embedding", target=1)
    words = px.explain(reader, ids, "lrp-text-cnn", layer="embedding", target=1)
    assert result.values.shape == (4, LENGTH, 1)
    assert torch.allclose(result.values, words.values, atol=1e-12)
    assert result.facts["conserved"].all()


# --- the vectors of documents ---


def test_vectors_are_weighted_sums_word_by_word(reader):
    ids, _ = documents(5, 4)
    vectors = reader.embedding.weight.detach()
    found = {w: px.explain(reader, ids, DocumentRelevance(weights=w, padding=PADDING), layer="embedding") for w in
             ("relevance", "elementwise", "uniform", "tf-idf")}  # fmt: skip
    whole = px.explain(reader, ids, px.attribution.TextCNNLRP(epsilon=1e-3, by_word=False), layer="embedding").values
    within = [sum(w in document for document in ids.tolist()) for w in range(WORDS)]
    for row in range(5):
        want = {name: torch.zeros(8).double() for name in found}
        real = [t for t in range(LENGTH) if ids[row, t] != PADDING]
        for t in real:
            v = vectors[ids[row, t]]
            want["relevance"] += whole[row, t].sum() * v
            want["elementwise"] += whole[row, t] * v
            want["uniform"] += v / len(real)
            want["tf-idf"] += math.log(5 / within[ids[row, t]]) * v
        for name, result in found.items():
            assert torch.allclose(result.parts["document_vectors"][row], want[name], rtol=1e-7, atol=1e-10), name
    assert torch.equal(found["uniform"].values, found["relevance"].values)


def test_uniform_weights_are_the_mean_embedding(reader):
    ids, _ = documents(3, 5)
    got = px.explain(reader, ids, DocumentRelevance(weights="uniform"), layer="embedding").parts["document_vectors"]
    assert torch.allclose(got, reader.embedding(ids).mean(1).detach())


def test_rarity_is_counted_in_the_documents_that_are_given(reader):
    ids, many = documents(3, 6)[0], documents(50, 7)[0]
    method = DocumentRelevance(weights="tf-idf")
    got = px.explain(reader, ids, method, layer="embedding", data={"documents": many}).parts["document_vectors"]
    for row in range(3):
        want = torch.zeros(8).double()
        for word in ids[row].tolist():
            seen = sum(word in document for document in many.tolist())
            want += (math.log(50 / seen) if seen else 0.0) * reader.embedding.weight[word].detach()
        assert torch.allclose(got[row], want, rtol=1e-9)


def test_bags_use_the_vectors_that_are_given():
    svm, x = settle(nn.Linear(PADDING, TOPICS)), bags(documents(4, 8)[0])
    vectors = torch.randn(PADDING, 5, generator=torch.Generator().manual_seed(0)).double()
    plain = px.explain(svm, x, "lrp-document-relevance")
    assert torch.equal(plain.parts["document_vectors"], plain.values)
    given = px.explain(svm, x, "lrp-document-relevance", data={"vectors": vectors})
    assert torch.allclose(given.parts["document_vectors"], plain.values @ vectors)
    weighed = px.explain(svm, x, DocumentRelevance(weights="tf-idf"), data={"vectors": vectors})
    assert torch.allclose(weighed.parts["document_vectors"], x @ vectors)


# --- explanatory power ---


@pytest.mark.parametrize("rows", [30, 31])
def test_explanatory_power_equals_scikit_learns_neighbours(rows):
    neighbors = pytest.importorskip("sklearn.neighbors")
    draw = torch.Generator().manual_seed(1)
    vectors, labels = torch.randn(rows, 4, generator=draw).double(), torch.randint(0, 3, (rows,), generator=draw)
    vectors[:, 0] += labels
    got = explanatory_power(vectors, labels, splits=3, neighbours=(1, 4, 9), seed=5)
    unit, split = vectors / vectors.norm(dim=1, keepdim=True), torch.Generator().manual_seed(5)
    accuracy = {1: [], 4: [], 9: []}
    for _ in range(3):
        order = torch.randperm(rows, generator=split)
        asked, known = order[: rows // 2], order[rows // 2 :]
        for k, found in accuracy.items():
            model = neighbors.KNeighborsClassifier(k).fit(unit[known].numpy(), labels[known].numpy())
            found.append(model.score(unit[asked].numpy(), labels[asked].numpy()))
    assert got == pytest.approx(max(sum(found) / 3 for found in accuracy.values()))


def test_explanatory_power_of_what_is_told_apart_and_of_chance():
    labels = torch.arange(40) % 2
    assert explanatory_power(torch.eye(2)[labels] * torch.arange(1, 41)[:, None], labels) == 1.0
    noise = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert abs(explanatory_power(noise, torch.arange(400) % 2) - 0.5) < 0.06


def test_relevance_sums_planted_topics_up_best(reader):
    ids, topics = documents(240, 10_000)
    assert (reader(ids).argmax(1) == topics).double().mean() > 0.9
    result = px.explain(reader, ids, DocumentRelevance(padding=PADDING), layer="embedding", data={"labels": topics})
    power = result.source["explanatory_power"]
    assert set(power) == {"relevance", "elementwise", "uniform", "tf-idf"}
    assert min(power["relevance"], power["elementwise"]) > max(power["uniform"], power["tf-idf"]) + 0.1
    mixed = result.values[:, :, 0].clone()
    draw = torch.Generator().manual_seed(0)
    for row in mixed:
        row.copy_(row[torch.randperm(LENGTH, generator=draw)])
    shuffled = torch.einsum("nt,ntd->nd", mixed, reader.embedding(ids).detach())
    assert explanatory_power(shuffled, topics) < power["relevance"] - 0.1
    # the most relevant word is a keyword of the predicted topic, which a word picked at random seldom is
    own = ids // KEYWORDS == reader(ids).argmax(1)[:, None]
    best = own.gather(1, result.values[:, :, 0].argmax(1, keepdim=True))
    assert best.double().mean() > 4 * own.double().mean()


# --- deletion ---


def test_deletion_is_the_loop_and_hurts_more_than_the_least_relevant(reader):
    ids, _ = documents(12, 11)
    result = px.explain(reader, ids, DocumentRelevance(deletions=3, padding=PADDING), layer="embedding")
    curve, vectors = result.parts["deletion"], reader.embedding(ids).detach()

    def scores(x):
        x = x.transpose(1, 2)
        return reader.head(torch.cat([conv(x).relu().amax(2) for conv in reader.convs], 1)).detach()

    for row in range(12):
        words = [t for t in range(LENGTH) if ids[row, t] != PADDING]
        words.sort(key=lambda t: -float(result.values[row, t, 0]))
        for k in range(4):
            changed = vectors[row : row + 1].clone()
            changed[0, words[:k]] = 0.0
            assert float(curve[row, k]) == pytest.approx(float(scores(changed)[0, result.target[row]]))
    least = vectors.clone()
    least[torch.arange(12), result.values[:, :, 0].argmin(1)] = 0.0
    assert curve[:, 1].mean() < scores(least).gather(1, result.target[:, None]).mean()


def test_deletion_in_a_bag_leaves_out_whole_words():
    svm, x = settle(nn.Linear(PADDING, TOPICS)), bags(documents(3, 12)[0])
    result = px.explain(svm, x, DocumentRelevance(deletions=PADDING), target=1)
    curve = result.parts["deletion"]
    assert torch.allclose(curve[:, -1], svm.bias[1].detach().expand(3))
    best = (x * svm.weight[1]).detach() + torch.where(x == 0, -torch.inf, 0.0)
    assert torch.allclose(curve[:, 0] - curve[:, 1], best.amax(1))


# --- refusals ---


def test_refusals(reader):
    ids, x = documents(2, 13)[0], torch.ones(2, PADDING).double()
    svm = settle(nn.Linear(PADDING, TOPICS))
    for settings in ({"weights": "best"}, {"deletions": -1}, {"padding": 1.5}, {"bias_factor": 2.0}, {"epsilon": -1.0}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            px.explain(svm, x, DocumentRelevance(**settings))
    with pytest.raises(MethodError, match="of a bag"):
        px.explain(svm, x, DocumentRelevance(weights="elementwise"))
    with pytest.raises(InputError, match="layer="):
        px.explain(reader, ids, "lrp-document-relevance")
    for data, words in (
        ({"topics": ids}, "dict with some of"),
        ({"labels": torch.zeros(3)}, "one label per row"),
        ({"vectors": torch.zeros(4, 2)}, "one per word"),
    ):
        with pytest.raises(InputError, match=words):
            px.explain(svm, x, "lrp-document-relevance", data=data)
    with pytest.raises(InputError, match="word numbers"):
        px.explain(
            reader, ids, DocumentRelevance(weights="tf-idf"), layer="embedding", data={"documents": torch.rand(2, 3)}
        )
    with pytest.raises(MethodError, match="word numbers"):
        px.explain(nn.GRU(3, 2).eval(), torch.rand(2, 4, 3), DocumentRelevance(weights="tf-idf"))
    with pytest.raises(InputError, match="two finite rows"):
        explanatory_power(torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(InputError, match="'neighbours'"):
        explanatory_power(torch.ones(6, 2), torch.zeros(6), neighbours=(4,))
