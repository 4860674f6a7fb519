"""Nearest neighbours in a hidden layer against brute force, planted copies and real digits."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

import pellucid as px
from pellucid import worlds, zoo
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.contract.storage import same
from pellucid.engine.inputs import as_inputs
from pellucid.engine.subject import as_subject
from pellucid.examples import DeepNearestNeighbours
from pellucid.examples.similar import embed, nearest, output_place, own_distances


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def net():
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for i, p in enumerate(model.parameters()):
        p.data = draw(*p.shape, seed=100 + i)
    return model.eval()


def brute(known, asked, count, distance):
    """Every distance one by one, sorted with ties to the lower number."""
    table = [[(float(distance(a, b)), j) for j, b in enumerate(known)] for a in asked]
    nearest_ones = [sorted(row)[:count] for row in table]
    return torch.tensor([[j for _, j in row] for row in nearest_ones]), torch.tensor(
        [[d for d, _ in row] for row in nearest_ones], dtype=torch.float64
    )


DISTANCES = {
    "euclidean": lambda a, b: ((a - b) ** 2).sum().sqrt(),
    "cosine": lambda a, b: 1 - (a @ b) / (a.norm() * b.norm()),
}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_are_those_found_one_by_one(metric):
    model, data, x = net(), draw(40, 4, seed=1), draw(6, 4, seed=2)
    result = px.explain(model, x, DeepNearestNeighbours(neighbours=4, metric=metric), data=data)
    items, distances = brute(model[:4](data).detach(), model[:4](x).detach(), 4, DISTANCES[metric])
    assert torch.equal(result.items, items)
    assert torch.allclose(result.weights, distances, atol=1e-12)
    assert result.source["layer_used"] == "4#1:in"
    assert torch.equal(result.rows, data[items])
    assert result.labels is None
    assert set(result.facts) == {"novelty"}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_chosen_layer_gives_what_scikit_learn_finds_there(metric):
    model, data, x = net(), draw(60, 4, seed=1), draw(5, 4, seed=2)
    result = px.explain(model, x, DeepNearestNeighbours(neighbours=3, metric=metric), data=data, layer="1")
    hidden = [model[:2](rows).detach().numpy() for rows in (data, x)]
    peer = NearestNeighbors(n_neighbors=3, metric=metric).fit(hidden[0]).kneighbors(hidden[1])
    assert torch.equal(result.items, torch.from_numpy(peer[1]))
    assert torch.allclose(result.weights, torch.from_numpy(peer[0]), atol=1e-7)
    assert result.source["layer_used"] == "1"


def test_a_row_of_the_data_finds_itself_first():
    model, data = net().float(), draw(50, 4).float() + 100  # large values: rounding must not hide the zero
    result = px.explain(model, data[7:9], DeepNearestNeighbours(neighbours=2), data=data, layer="0")
    assert result.items[:, 0].tolist() == [7, 8]
    assert result.weights[:, 0].tolist() == [0.0, 0.0]
    assert (result.weights[:, 1] > 0).all()
    assert result.facts["novelty"].tolist() == [0.0, 0.0]


def test_weights_put_distances_into_score_units():
    # Two units; class 0 reads the first alone with weight 3, class 1 the second alone with weight -2.
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2)).double().eval()
    model[1].weight.data = torch.tensor([[3.0, 0.0], [0.0, -2.0]], dtype=torch.float64)
    data = torch.tensor([[1.0, 9.0], [2.0, 0.5], [9.0, 1.0]], dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    method = DeepNearestNeighbours(neighbours=3, weighted=True)
    for target, items, distances in ((0, [0, 1, 2], [3.0, 6.0, 27.0]), (1, [1, 2, 0], [1.0, 2.0, 18.0])):
        result = px.explain(model, x, method, data=data, target=target)
        assert result.items[0].tolist() == items
        assert result.weights[0].tolist() == distances
    both = px.explain(model, torch.cat([x, x]), method, data=data, target=[1, 0])
    assert both.items.tolist() == [[1, 2, 0], [0, 1, 2]]


def test_label_agreement_is_counted_against_the_prediction():
    # The network says 1 where the input is positive; h = x. Neighbours of 2.0 are 2.1, 1.8, 2.5 with labels 1, 0, 1.
    model = nn.Sequential(nn.Identity(), nn.Linear(1, 2)).double().eval()
    model[1].weight.data, model[1].bias.data = torch.tensor([[-1.0], [1.0]]).double(), torch.zeros(2).double()
    data = torch.tensor([[2.1], [1.8], [2.5], [-3.0], [-2.0], [-2.5]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 0, 0, 1])
    x = torch.tensor([[2.0], [-2.4]], dtype=torch.float64)
    result = px.explain(model, x, DeepNearestNeighbours(neighbours=3), data=(data, labels))
    assert result.items.tolist() == [[0, 1, 2], [5, 4, 3]]
    assert result.labels.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert torch.allclose(result.facts["label_agreement"], torch.tensor([2 / 3, 2 / 3]).double())
    assert torch.equal(result.facts["label_agreement"], result.facts["input_agreement"])
    # The prediction counts, not the class asked about.
    other = px.explain(model, x, DeepNearestNeighbours(neighbours=3), data=(data, labels), target=0)
    assert torch.equal(other.facts["label_agreement"], result.facts["label_agreement"])
    unit = px.explain(model, x, DeepNearestNeighbours(neighbours=3), data=(data, labels), target=px.unit("0", 0))
    assert torch.equal(unit.facts["label_agreement"], result.facts["label_agreement"])


def test_novelty_is_a_share_of_the_data():
    # Own nearest distances of 0, 1, 3, 7: 1, 1, 2, 4. A row at distance d is newer than those below d.
    data = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    model = nn.Sequential(nn.Identity(), nn.Linear(1, 2)).double().eval()
    x = torch.tensor([[7.5], [8.0], [8.5], [10.0], [20.0]], dtype=torch.float64)
    result = px.explain(model, x, DeepNearestNeighbours(neighbours=1), data=data)
    assert result.weights[:, 0].tolist() == [0.5, 1.0, 1.5, 3.0, 13.0]
    assert result.facts["novelty"].tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]
    assert own_distances(embed(data, "euclidean"), "euclidean", 1 << 20).tolist() == [1.0, 1.0, 2.0, 4.0]


def test_copies_and_dead_units_have_a_defined_place():
    known = torch.zeros(30, 3, dtype=torch.float64)  # more copies than spare candidates
    known[::2, 0] = 1.0
    for metric in ("euclidean", "cosine"):
        space = embed(known, metric)
        items, distances = nearest(space, space[[1, 4]], 5, metric, 1 << 20)
        assert items.tolist() == [[1, 3, 5, 7, 9], [0, 2, 4, 6, 8]]
        assert torch.equal(distances, torch.zeros(2, 5, dtype=torch.float64))
        assert torch.equal(own_distances(space, metric, 1 << 20), torch.zeros(30, dtype=torch.float64))
        # A vector without direction is at a right angle to every other.
        assert float(nearest(space[::2], space[1:2], 1, metric, 1 << 20)[1]) == 1.0


class Branches(nn.Module):
    """A network whose last linear call does not make the output that is explained."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.relu(self.body(x))
        return {"main": torch.softmax(self.head(h), 1), "extra": torch.relu_(self.auxiliary(h))}


def test_the_output_layer_is_the_one_that_makes_the_output():
    model, x = Branches().eval(), torch.randn(3, 4, generator=generator())
    for output, name in (("main", "head"), ("extra", "auxiliary")):
        subject = as_subject(px.Subject(model, output=output))
        assert str(output_place(subject, model, as_inputs(x))) == f"{name}#1:in"
    frozen = Branches().eval().requires_grad_(False)
    with torch.no_grad():
        result = px.explain(px.Subject(frozen, output="main"), x, DeepNearestNeighbours(neighbours=1), data=x)
    assert result.source["layer_used"] == "head#1:in"
    assert result.items[:, 0].tolist() == [0, 1, 2]
    assert not any(m._forward_hooks for m in frozen.modules())


def test_shared_linear_layers_are_told_apart_by_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fold = nn.Linear(3, 3)

        def forward(self, x):
            return self.fold(torch.relu(self.fold(x)))

    model, x = Twice().eval(), torch.randn(4, 3, generator=generator())
    result = px.explain(model, x, DeepNearestNeighbours(neighbours=2), data=x)
    hidden = torch.relu(model.fold(x)).detach().double()
    assert result.source["layer_used"] == "fold#2:in"
    assert torch.allclose(result.weights[:, 1], (hidden[:, None] - hidden).norm(dim=2).sort(1).values[:, 1], atol=1e-6)


def test_rows_stand_alone_and_chunks_do_not_matter():
    model, data, x = net(), draw(80, 4, seed=1), draw(7, 4, seed=2)
    labels = torch.arange(80) % 3
    method = DeepNearestNeighbours(neighbours=3, weighted=True)
    whole = px.explain(model, x, method, data=(data, labels))
    small = px.explain(model, x, method, data=(data, labels), memory=20_000)
    for i in range(7):
        alone = px.explain(model, x[i : i + 1], method, data=(data, labels))
        assert torch.equal(alone.items[0], whole.items[i])
        assert torch.allclose(alone.weights[0], whole.weights[i], rtol=0, atol=1e-12)
        assert all(torch.equal(alone.facts[k][0], whole.facts[k][i]) for k in whole.facts)
    assert torch.equal(small.items, whole.items)


def test_neighbours_themselves_are_saved_only_on_request(tmp_path):
    model, data, x = net(), draw(20, 4, seed=1), draw(2, 4, seed=2)
    result = px.explain(model, x, DeepNearestNeighbours(neighbours=3), data=data)
    plain = px.load(result.save(tmp_path / "plain.safetensors"))
    assert plain.rows is None
    assert same(plain, result.replace(rows=None))
    assert data.numpy().tobytes()[:32] not in (tmp_path / "plain.safetensors").read_bytes()
    full = px.load(result.save(tmp_path / "full.safetensors", inputs=True))
    assert torch.equal(full.rows, result.rows)
    tight = px.explain(model, x, DeepNearestNeighbours(neighbours=3), data=draw(20, 4, seed=1), memory=3000)
    assert torch.equal(tight.items, result.items)


def test_several_inputs_keep_their_structure():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(6, 2)

        def forward(self, words, extra):
            return self.head(torch.cat([self.table(words).mean(1), extra], 1))

    model = Pair().eval()
    data = {
        "words": torch.randint(0, 9, (12, 5), generator=generator()),
        "extra": torch.randn(12, 2, generator=generator()),
    }
    asked = {k: v[3:5] for k, v in data.items()}
    result = px.explain(model, asked, DeepNearestNeighbours(neighbours=2), data=data)
    assert result.items[:, 0].tolist() == [3, 4]
    assert torch.equal(result.rows["words"], data["words"][result.items])
    assert result.rows["extra"].shape == (2, 2, 2)


def test_what_cannot_be_done_is_refused():
    model, data = net(), draw(10, 4)

    def ask(method="deep-nearest-neighbours", subject=model, **more):
        return px.explain(subject, data[:2], method, **{"data": data, **more})

    for wrong in ({"neighbours": 0}, {"neighbours": True}, {"metric": "manhattan"}):
        with pytest.raises(MethodError):
            ask(DeepNearestNeighbours(**wrong))
    with pytest.raises(InputError, match="at least 5 rows"):
        ask(data=data[:4])
    with pytest.raises(NeedError):
        ask(data=None)
    with pytest.raises(NeedError):
        ask(subject=lambda x: x)
    with pytest.raises(NeedError, match="linear layer"):
        ask(subject=nn.Sequential(nn.Tanh()).eval())
    with pytest.raises(LayerError, match="weighted"):
        ask(DeepNearestNeighbours(weighted=True), layer="1")
    with pytest.raises(TargetError, match="class"):
        ask(DeepNearestNeighbours(weighted=True), target=lambda out: out.sum(1))


def test_on_digits_the_network_groups_classes_better_than_pixels_do():
    model, world = zoo.load("digits-cnn"), worlds.digits()
    images, truth = world.test
    result = px.explain(model, images, DeepNearestNeighbours(neighbours=5), data=world)
    said = model(images).argmax(1).detach()
    feature, pixel = result.facts["label_agreement"], result.facts["input_agreement"]
    assert feature.mean() > pixel.mean() > 0.9
    # Neighbours' labels are support: where the network errs, fewer of them agree, and the rows lie further off.
    assert feature[said != truth].mean() < feature[said == truth].mean() - 0.2
    assert result.facts["novelty"][said != truth].mean() > result.facts["novelty"][said == truth].mean()
