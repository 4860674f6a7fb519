"""GNNExplainer against its objective by automatic differentiation, planted motifs and the reach of a network."""

import itertools
import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import GNNExplainer
from pellucid.attribution.mask_graph import _Graph, _measure, _slopes
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine.ask import Ask
from pellucid.engine.inputs import as_inputs
from pellucid.engine.subject import as_subject

DOUBLE = {"dtype": torch.float64}
EVEN = {"size": 0.0, "entropy": 0.0, "feature_size": 0.0, "feature_entropy": 0.0}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Rounds(nn.Module):
    """Rounds of messages, read out at the first node or as a mean."""

    def __init__(self, count=2, first=True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(count))
        self.first = first
        generator = torch.Generator().manual_seed(3)
        for p in self.double().parameters():
            p.data = torch.randn(p.shape, generator=generator, **DOUBLE)

    def forward(self, x, a):
        for layer in self.layers:
            x = torch.tanh(layer(x + a @ x))
        return x[:, 0] if self.first else x.mean(1)


def graphs(count, nodes, edges):
    """The same undirected edges for every row, and features."""
    a = torch.zeros(count, nodes, nodes, **DOUBLE)
    for u, v in edges:
        a[:, u, v] = a[:, v, u] = 1.0
    return rows(count, nodes, 3), a


PATH = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def asked(method, model, inputs):
    """The inside of the method on a question, as `explain` would build it."""
    ask = Ask(subject=as_subject(model), inputs=as_inputs(inputs))
    graph = _Graph(method, ask)
    graph.aim()
    return graph


def objective(model, method, x, a, logits, features, fill, target):
    """The source's objective for one graph, edge by edge; `logits` by undirected edge."""
    mask, prices = torch.zeros_like(a), []
    for (u, v), logit in logits.items():
        m = torch.sigmoid(logit)
        prices.append((m, -m * m.log() - (1 - m) * (1 - m).log()))
        place = torch.zeros_like(a)
        place[u, v] = place[v, u] = 1
        mask = mask + m * place
    told = torch.sigmoid(features)
    log = model((fill + (x - fill) * told)[None], (a * mask)[None])[0].log_softmax(0)[target]
    doubt = -told * told.log() - (1 - told) * (1 - told).log()
    edges = method.size * sum(m for m, _ in prices) + method.entropy * sum(h for _, h in prices) / len(prices)
    return -log + edges + method.feature_size * told.mean() + method.feature_entropy * doubt.mean()


@pytest.mark.parametrize("fill", ["zero", "marginal"])
def test_slopes_are_those_of_the_objective(fill):
    model, inputs = Rounds().eval(), graphs(3, 6, [*PATH, (0, 2)])
    method = GNNExplainer(fill=fill, size=0.3, entropy=0.7, feature_size=0.5, feature_entropy=0.2)
    graph = asked(method, model, inputs)
    logits, features = rows(3, 6, 6, seed=5), rows(3, 3, seed=6)
    (by_edge, by_feature), _ = _slopes(graph, logits, features, 0)
    fills = graph.fills(torch.arange(3), torch.zeros(3, dtype=torch.long))
    for n in range(3):
        own = {(u, v): logits[n, u, v].clone().requires_grad_() for u, v in [*PATH, (0, 2)]}
        f = features[n].clone().requires_grad_()
        target = model(*inputs)[n].argmax().item()
        total = objective(model, method, inputs[0][n], inputs[1][n], own, f, fills[n], target)
        found = torch.autograd.grad(total, [*own.values(), f])
        for (u, v), slope in zip(own, found, strict=False):
            assert by_edge[n, u, v].item() == pytest.approx(slope.item(), abs=1e-12)
        torch.testing.assert_close(by_feature[n], found[-1], rtol=0, atol=1e-12)


def test_full_masks_reproduce_the_prediction():
    model, inputs = Rounds(first=False).eval(), graphs(2, 6, PATH)
    graph = asked(GNNExplainer(), model, inputs)
    facts = _measure(graph, graph.edge.double(), torch.ones(2, 3, **DOUBLE))
    with torch.no_grad():
        expected = model(*inputs).softmax(1).amax(1)
    for name in ("score", "masked_score", "subgraph_score"):
        torch.testing.assert_close(facts[name], expected, rtol=0, atol=1e-12)
    assert facts["undecided"].tolist() == [0.0, 0.0]
    assert facts["edges"].tolist() == facts["subgraph_edges"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_edges_beyond_the_reach_get_exactly_zero(count):
    """The first node sees, in k rounds, the first k edges of a path, and the gradient of the others is exactly zero."""
    model, inputs = Rounds(count).eval(), graphs(2, 6, PATH)
    got = px.explain(model, inputs, GNNExplainer(steps=4))
    for n, (u, v) in itertools.product(range(2), PATH):
        assert (got.values[1][n, u, v] > 0) == (u < count)
    assert got.facts["reached_edges"].tolist() == [count, count]
    graph = asked(GNNExplainer(**EVEN), model, inputs)
    (slope, _), touched = _slopes(graph, rows(2, 6, 6), rows(2, 3), 0)
    assert not slope[:, torch.arange(count, 5), torch.arange(count + 1, 6)].any()
    assert touched.sum() == 2 * 2 * count


class Chain(nn.Module):
    """Class 1 where the first node neighbours a node of type 1 that neighbours one of type 2; types are one-hot columns."""

    def forward(self, x, a):
        found = (a @ (x[..., 1:2] * (a @ x[..., 2:3])))[:, 0, 0]
        return torch.stack([torch.zeros_like(found), 8 * found - 4], 1)


def chains(count, seed):
    """Node 0, a chain 0 - 1 - 2 that makes the class, other nodes of other types, and idle edges among all of them."""
    generator, nodes = torch.Generator().manual_seed(seed), 9
    a, x = torch.zeros(count, nodes, nodes, **DOUBLE), torch.zeros(count, nodes, 5, **DOUBLE)
    for n in range(count):
        x[n, 0, 0] = x[n, 1, 1] = x[n, 2, 2] = 1
        for v in range(3, nodes):
            x[n, v, 3 + v % 2] = 1
        idle = torch.rand(nodes, nodes, generator=generator).triu(1) < 0.4
        idle[0, 1] = idle[1, 2] = True
        a[n] = (idle | idle.T).double()
    return x, a


def test_planted_chain_is_told_from_idle_edges():
    """Among all edges within two steps of the first node, those of the chain come out on top: area under the curve 1."""
    inputs = chains(5, 4)
    got = px.explain(Chain().eval(), inputs, GNNExplainer(fill="zero"))
    assert got.target.tolist() == [1] * 5
    for n in range(5):
        mask = got.values[1][n]
        chain = [mask[0, 1].item(), mask[1, 2].item()]
        others = [mask[u, v].item() for u in range(9) for v in range(u + 1, 9) if (u, v) not in ((0, 1), (1, 2))]
        assert min(chain) > 0.8
        assert min(chain) > max(others)
    facts = got.facts
    assert (facts["subgraph_score"] > 0.95).all()
    assert (facts["without_subgraph"] < 0.05).all()
    assert (facts["subgraph_edges"] >= 2).all()
    assert (facts["subgraph_edges"] < facts["edges"]).all()
    told = got.values[0][:, 0]
    assert (told[:, 1:3].amin(1) > told[:, [0, 3, 4]].amax(1)).all(), "the columns of types 1 and 2 are what is read"


def communities(count, seed):
    """Random trees of eight nodes, with five more that know each other all (class 1) or in a row (class 0)."""
    generator = torch.Generator().manual_seed(seed)
    a, motif = torch.zeros(count, 13, 13), torch.zeros(count, 13, 13, dtype=torch.bool)
    for n in range(count):
        for v in range(1, 8):
            a[n, int(torch.randint(0, v, (1,), generator=generator)), v] = 1
        a[n, int(torch.randint(0, 8, (1,), generator=generator)), 8] = 1
        for u, v in itertools.combinations(range(8, 13), 2):
            if n % 2 or v == u + 1:
                a[n, u, v] = 1
                motif[n, u, v] = True
    return (torch.ones(count, 13, 1), a + a.mT), motif, torch.arange(count) % 2


class Trained(nn.Module):
    """Three rounds of messages with rectifiers, and the mean over nodes read out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 12), nn.Linear(12, 12), nn.Linear(12, 12)])
        self.head = nn.Linear(12, 2)

    def forward(self, x, a):
        for layer in self.layers:
            x = torch.relu(layer(x + a @ x))
        return self.head(x.mean(1))


@pytest.mark.slow
def test_trained_network_points_at_the_planted_community():
    """All nodes are alike, so only edges tell; those of the community come before others far more often than by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Trained()
        inputs, _, labels = communities(200, 1)
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            adam.zero_grad()
            nn.functional.cross_entropy(model(*inputs), labels).backward()
            adam.step()
    model.eval().zero_grad()
    inputs, motif, labels = communities(20, 2)
    assert (model(*inputs).argmax(1) == labels).all()
    rows = labels == 1
    x, a, motif = inputs[0][rows], inputs[1][rows], motif[rows]
    got = px.explain(model, (x, a), GNNExplainer())
    areas = []
    for n in range(len(x)):
        edge = a[n].triu() > 0
        of, other = got.values[1][n][edge & motif[n]], got.values[1][n][edge & ~motif[n]]
        areas.append((of[:, None] > other).double().mean())
    assert torch.stack(areas).mean() > 0.75
    assert (got.facts["subgraph_score"] > got.facts["without_subgraph"] + 0.5).all()


def test_masks_lie_between_zero_and_one_on_edges_alone():
    x, a = graphs(2, 6, PATH)
    a = a + torch.eye(6, **DOUBLE)
    got = px.explain(Rounds(first=False).eval(), (x, a), GNNExplainer(steps=40, rate=1.0))
    for values in got.values:
        assert (values >= 0).all()
        assert (values <= 1).all()
    edge = (a != 0) & ~torch.eye(6, dtype=torch.bool)
    assert not got.values[1][~edge].any(), "pairs without an edge and self-loops get nothing"
    assert (got.values[1][edge] > 0).all()
    assert torch.equal(got.values[1], got.values[1].mT)


def test_self_loops_and_weights_of_edges_are_kept():
    """Under a full mask, weights and loops stay as they are; under an empty one, loops alone do."""
    x, a = graphs(1, 4, [(0, 1), (1, 2), (2, 3)])
    a = 0.5 * a + 2 * torch.eye(4, **DOUBLE)
    graph = asked(GNNExplainer(fill="zero"), Rounds(first=False).eval(), (x, a))
    row = torch.tensor([0])
    for mask, expected in ((graph.edge.double(), a), (torch.zeros_like(a), 2 * torch.eye(4, **DOUBLE)[None])):
        assert torch.equal(graph.point(row, torch.zeros_like(x), mask, torch.ones(1, 3, **DOUBLE))[1], expected)


def test_price_of_edges_shrinks_the_subgraph():
    inputs = graphs(3, 6, [*PATH, (0, 2), (1, 4), (0, 5)])
    model, totals = Rounds(first=False).eval(), []
    for price in (0.0, 0.5, 50.0):
        got = px.explain(model, inputs, GNNExplainer(size=price, fill="zero"))
        totals.append(got.values[1].sum((1, 2)))
    assert (totals[1] < totals[0]).all()
    assert (got.values[1] < 0.1).all()
    assert got.facts["subgraph_edges"].tolist() == [0.0] * 3
    assert (got.facts["undecided"] < 0.1).all()


def test_marginal_features_come_from_the_nodes_that_are_there():
    """Padded nodes lend no features; every column is drawn by itself, evenly."""
    x, a = graphs(1, 6, [(0, 1), (1, 2)])
    x[:, 3:] = 0
    graph = asked(GNNExplainer(), Rounds().eval(), (x, a))
    drawn = torch.cat([graph.fills(torch.tensor([0]), torch.tensor([d])) for d in range(200)])
    for column in range(3):
        seen = drawn[..., column].flatten()
        share = torch.stack([(seen == x[0, v, column]).double().mean() for v in range(3)])
        assert share.sum() == 1
        assert (share - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / len(seen))
    assert not torch.equal(drawn[:, 0, 0] == x[0, 0, 0], drawn[:, 0, 1] == x[0, 0, 1])


def test_one_node_by_the_subject_or_by_an_input():
    class Nodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Rounds(first=False)

        def forward(self, x, a, node=None):
            for layer in self.body.layers:
                x = torch.tanh(layer(x + a @ x))
            return x if node is None else x[torch.arange(len(x)), node]

    model, (x, a), method = Nodes().eval(), graphs(2, 6, PATH), GNNExplainer(steps=5)
    chosen = px.explain(px.Subject(model, output=lambda out: out[:, 5]), (x, a), method)
    given = px.explain(model, (x, a, torch.tensor([5, 0])), method)
    assert chosen.values[1][0, 4, 5] > 0
    assert chosen.values[1][0, 0, 1] == 0
    assert given.values[1][1, 4, 5] == 0
    assert given.values[1][1, 0, 1] > 0
    assert given.values[2] is None


def test_names_order_and_direction():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Rounds()

        def forward(self, edges, nodes):
            return self.body(nodes, edges)

    x, a = graphs(2, 6, PATH)
    plain = px.explain(Turned().eval(), (a, x), GNNExplainer(steps=3, adjacency=0))
    named = px.explain(Turned().eval(), {"edges": a, "nodes": x}, GNNExplainer(steps=3, adjacency="edges"))
    assert plain.values[0].shape == (2, 6, 6)
    assert torch.equal(plain.values[0], named.values["edges"])
    assert named.values["nodes"].shape == (2, 1, 3)
    one_way = a.triu()
    got = px.explain(Rounds().eval(), (x, one_way), GNNExplainer(steps=3, directed=True)).values[1]
    assert (got[:, 0, 1] > 0).all()
    assert not got.tril().any()
    with pytest.raises(InputError, match="directed=True"):
        px.explain(Rounds().eval(), (x, one_way), GNNExplainer())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"adjacency": 2}, "'adjacency'"),
        ({"adjacency": True}, "'adjacency'"),
        ({"adjacency": "edges"}, "'adjacency'"),
        ({"fill": "mean"}, "'fill'"),
        ({"directed": 1}, "'directed'"),
        ({"size": -1.0}, "'size'"),
        ({"entropy": float("nan")}, "'entropy'"),
        ({"feature_size": "big"}, "'feature_size'"),
        ({"feature_entropy": -0.1}, "'feature_entropy'"),
        ({"rate": 0}, "'rate'"),
        ({"steps": 0}, "'steps'"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, words):
    class Runs(nn.Module):
        def forward(self, x, a):
            raise AssertionError("the model ran")

    with pytest.raises(MethodError, match=words):
        px.explain(Runs().eval(), graphs(2, 6, PATH), GNNExplainer(**settings))


def test_what_is_no_graph_is_refused():
    x, a = graphs(2, 6, PATH)
    model = Rounds().eval()
    for inputs in (x, (x, a[:, :5]), (x[:, :4], a), (x, a, x)):
        with pytest.raises(InputError, match="graphs"):
            px.explain(model, inputs, GNNExplainer())
    with pytest.raises(TargetError, match="class"):
        px.explain(model, (x, a), GNNExplainer(), target=lambda y: y[:, 0])
    with pytest.raises(LayerError, match="'layer'"):
        px.explain(model, (x, a), GNNExplainer(), layer="layers.0")
    with pytest.raises(NeedError):
        px.explain(lambda x, a: (a @ x).sum(1), (x, a), GNNExplainer())
    with pytest.raises(NeedError, match="two classes"):
        px.explain(px.Subject(model, output=lambda out: out[:, :1]), (x, a), GNNExplainer())
