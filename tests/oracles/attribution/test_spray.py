"""Spectral relevance analysis: a planted shortcut, the spectrum of graphs that are known by heart, brute-force means."""

import math

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import SpRAy
from pellucid.attribution.spectral import affinity, assign, by_size, conductance, count_and_gap, spectrum
from pellucid.contract.errors import PellucidError

DOUBLE = {"dtype": torch.float64}


class TwoWays(torch.nn.Module):
    """Says yes where the middle of the picture is bright, and far more so where its first corner is: the shortcut."""

    def __init__(self):
        super().__init__()
        weight = torch.zeros(1, 8, 8, **DOUBLE)
        weight[0, 2:6, 2:6] = 1.0
        weight[0, :2, :2] = 30.0
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x):
        yes = torch.relu(x * self.weight).flatten(1).sum(1)
        return torch.stack([-yes, yes], 1)


def pictures(count, tagged, seed=0):
    """Pictures with noise in the middle, the last of which have a bright corner too."""
    made = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=made, **DOUBLE)
    x[:, :, :2, :2] = 0
    x[count - tagged :, :, :2, :2] = 0.5 + 0.5 * torch.rand(tagged, 1, 2, 2, generator=made, **DOUBLE)
    return x


def method(**settings):
    return SpRAy(**{"of": "gradient-x-input", "layout": "spectral", **settings})


@pytest.mark.parametrize("of", ["gradient-x-input", "lrp-epsilon"])
def test_a_planted_shortcut_is_a_group_of_its_own(of):
    x = pictures(50, 12)
    got = px.explain(TwoWays().eval(), x, method(of=of), target=1, data=x)
    assert got.facts["group"].tolist() == [0] * 38 + [1] * 12  # purity 1, both ways
    assert got.facts["groups"].unique().tolist() == [2]
    assert got.facts["candidate"].tolist() == [0] * 38 + [1] * 12
    assert got.facts["share"].unique().tolist() == [12 / 50, 38 / 50]
    assert not got.facts["distance"].any()
    assert got.parts["map"][0, 1, :2, :2].sum() > 0.5  # what the group rests on is the corner
    assert not got.parts["map"][0, 0, :2, :2].any()


def test_the_spectrum_shows_the_extra_group():
    net = TwoWays().eval()
    with_it = px.explain(net, pictures(2, 0), method(), target=1, data=pictures(50, 12))
    without = px.explain(net, pictures(2, 0), method(), target=1, data=pictures(50, 0))
    assert (with_it.parts["eigenvalue"][0] < 1e-9).sum() == 2
    assert (without.parts["eigenvalue"][0] < 1e-9).sum() == 1
    assert without.facts["groups"][0] == 1
    assert not without.facts["candidates"].any()


def test_new_rows_belong_to_the_nearest_explanation():
    got = px.explain(TwoWays().eval(), pictures(6, 2, seed=9), method(), target=1, data=pictures(50, 12))
    assert got.facts["group"].tolist() == [0, 0, 0, 0, 1, 1]
    assert (got.facts["distance"] > 0).all()
    assert (got.facts["distance"] <= 2).all()


def test_means_by_brute_force():
    x = torch.rand(30, 1, 5, 7, generator=torch.Generator().manual_seed(1), **DOUBLE)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(30, 3)
    ).double()
    got = px.explain(net.eval(), x[:4], method(clusters=3, side=2, neighbours=4), target=2, data=x)
    maps = []
    for row in px.explain(net, x, "gradient-x-input", target=2).values:
        cells = torch.zeros(2, 2, **DOUBLE)
        for i in range(5):
            for j in range(7):
                cells[i * 2 // 5, j * 2 // 7] += row[0, i, j]
        maps.append(cells / cells.abs().sum())
    group = got.parts["group"][0]
    for g in range(3):
        mean = sum(maps[i] for i in range(30) if group[i] == g) / int((group == g).sum())
        torch.testing.assert_close(got.parts["map"][0, g], mean, rtol=0, atol=1e-8)
    for row in range(4):
        mean = got.parts["map"][0, int(got.facts["group"][row])]
        assert got.facts["group"][row] == group[row]
        for i in range(5):
            for j in range(7):
                a, b = i * 2 // 5, j * 2 // 7
                pixels = sum(k * 2 // 5 == a for k in range(5)) * sum(k * 2 // 7 == b for k in range(7))
                assert got.values[row, 0, i, j] == pytest.approx(float(mean[a, b]) / pixels, abs=1e-12)


def test_labels_choose_the_rows_and_each_class_has_its_own_groups():
    x = torch.cat([pictures(30, 8), pictures(21, 0, seed=3)])
    labels = torch.tensor([1] * 30 + [0] * 21)
    got = px.explain(TwoWays().eval(), x[[0, 29, 40]], method(), target=[1, 1, 0], data=(x, labels))
    assert (got.parts["group"][0] >= 0).tolist() == [True] * 30 + [False] * 21
    assert (got.parts["group"][2] >= 0).tolist() == [False] * 30 + [True] * 21
    assert got.facts["group"].tolist() == [0, 1, 0]
    alone = px.explain(TwoWays().eval(), x[[40]], method(), target=0, data=(x, labels))
    torch.testing.assert_close(got.values[2], alone.values[0], rtol=0, atol=1e-12)


def test_scaling_leaves_how_much_out():
    x = pictures(40, 10)
    louder = x * torch.linspace(0.1, 10, 40, **DOUBLE)[:, None, None, None]
    one, other = (px.explain(TwoWays().eval(), rows, method(), target=1, data=rows) for rows in (x, louder))
    assert torch.equal(one.facts["group"], other.facts["group"])
    torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-7)


def test_tables_several_inputs_and_layers():
    rows = torch.cat([torch.eye(4)[[0] * 12] + torch.rand(12, 4) / 9, torch.eye(4)[[1] * 7] + torch.rand(7, 4) / 9])
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
    found = px.explain(net, rows, method(clusters=2, neighbours=4), target=0, data=rows)
    assert found.values.shape == rows.shape
    assert px.explain(net, rows, method(), target=0, data=rows, layer="1").values.shape == (19, 5)

    class Sum(torch.nn.Module):
        def forward(self, a, b):
            return torch.stack([a.sum(1), (a * b).sum(1)], 1)

    got = px.explain(Sum().eval(), (rows, rows.flip(0)), method(), target=1, data=(rows, rows.flip(0)))
    assert [v.shape for v in got.values] == [rows.shape, rows.shape]
    total = sum(v.abs().sum(1) for v in got.values)
    assert (total <= 1 + 1e-6).all()


# --- the graph ------------------------------------------------------------------------------------------------------


def test_spectrum_of_complete_graphs():
    # A complete graph of n points has 0 once and n / (n - 1) otherwise; two of them apart have 0 twice.
    def whole(n):
        return torch.ones(n, n, **DOUBLE) - torch.eye(n, **DOUBLE)

    values, vectors = spectrum(torch.block_diag(whole(5), whole(3)))
    torch.testing.assert_close(values, torch.tensor([0, 0] + [5 / 4] * 4 + [3 / 2] * 2, **DOUBLE), rtol=0, atol=1e-12)
    assert count_and_gap(values, 6, None) == (2, pytest.approx(1.25))
    assert by_size(assign(vectors[:, :2])).tolist() == [0] * 5 + [1] * 3


def test_spectrum_of_a_ring():
    n = 12
    ring = torch.zeros(n, n, **DOUBLE)
    for i in range(n):
        ring[i, (i + 1) % n] = ring[(i + 1) % n, i] = 1
    expected = sorted(1 - math.cos(2 * math.pi * k / n) for k in range(n))
    np.testing.assert_allclose(spectrum(ring)[0].numpy(), expected, atol=1e-12)
    half = torch.arange(n) < n // 2
    assert float(conductance(ring, half)) == pytest.approx(2 / n)  # two of the half's n edge ends lead out


def test_neighbours_are_joined_if_either_is_near_the_other():
    points = torch.tensor([[0.0], [1.0], [3.0], [3.5]], **DOUBLE)
    edges = affinity(torch.cdist(points, points), 1)
    assert edges.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    points = torch.tensor([[0.0], [1.0], [2.5]], **DOUBLE)
    assert affinity(torch.cdist(points, points), 1).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_groups_agree_with_scikit_learn():
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics import adjusted_rand_score

    made = torch.Generator().manual_seed(3)
    points = torch.cat([torch.randn(n, 3, generator=made, **DOUBLE) + 3 * k for k, n in enumerate((20, 12, 15))])
    edges = affinity(torch.cdist(points, points), 6)
    ours = assign(spectrum(edges)[1][:, :3])
    theirs = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(edges.numpy())
    assert adjusted_rand_score(theirs, ours.numpy()) == 1.0


def test_the_layout_by_tsne_draws_nothing_and_keeps_groups_together():
    x = pictures(40, 10)
    first, second = (
        px.explain(TwoWays().eval(), x[:1], method(layout="tsne"), target=1, data=x, seed=s) for s in (0, 1)
    )
    place = first.parts["place"][0]
    assert torch.equal(place, second.parts["place"][0])
    apart = torch.cdist(place, place).fill_diagonal_(torch.inf)
    nearest = apart.argmin(1)
    assert ((nearest >= 30) == (torch.arange(40) >= 30)).all()


@pytest.mark.slow
def test_the_tag_of_the_shapes_world():
    plain = px.worlds.shapes(400, seed=5)
    tagged = px.worlds.shapes(400, seed=5, spurious="tag", spurious_probability=1.0)
    kind, has = plain.truth["true_labels"], torch.arange(400) % 4 == 0
    x = torch.where(has[:, None, None, None], tagged.inputs, plain.inputs)
    net = px.zoo.load("shapes-cnn-spurious")
    got = px.explain(net, x, SpRAy(layout="spectral"), target=kind, data=(x, kind))
    for row in [int((kind == c).nonzero()[0, 0]) for c in range(5)]:
        mine = kind == kind[row]
        group, tag = got.facts["group"][mine], has[mine]
        best = max(group.unique(), key=lambda g: float(tag[group == g].double().mean()))
        assert float(tag[group == best].double().mean()) > 0.9  # purity
        assert float((group == best)[tag].double().mean()) > 0.9  # and the whole of it
        assert got.parts["candidate"][row, int(best)] == 1
        assert got.parts["map"][row, int(best), :4, :4].sum() > 0.5  # the tag's corner


# --- refusals -------------------------------------------------------------------------------------------------------


class Counting(TwoWays):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"side": 0}, "'side'"),
        ({"neighbours": 2.0}, "'neighbours'"),
        ({"clusters": 0}, "'clusters'"),
        ({"most": True}, "'most'"),
        ({"apart": 1.5}, "'apart'"),
        ({"layout": "umap"}, "'layout'"),
        ({"of": "spray"}, "'of'"),
        ({"of": "insertion-deletion"}, "'of'"),
        ({"of": "nonsense"}, "'method'"),
    ],
)
def test_settings_are_refused_before_the_model_runs(settings, word):
    net, x = Counting().eval(), pictures(8, 0)
    with pytest.raises(PellucidError, match=word):
        px.explain(net, x, method(**settings), target=1, data=x)
    assert net.calls == 0


def test_too_little_data_is_refused():
    net, x = TwoWays().eval(), pictures(8, 0)
    with pytest.raises(PellucidError, match="at least 4 rows"):
        px.explain(net, x, method(), target=1, data=x[:3])
    with pytest.raises(PellucidError, match="class explained, 1"):
        px.explain(net, x, method(), target=1, data=(x, torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])))
    with pytest.raises(PellucidError, match="fewer than the rows"):
        px.explain(net, x, method(clusters=8), target=1, data=x)
    with pytest.raises(PellucidError, match="rows like the 'inputs'"):
        px.explain(net, x, method(), target=1, data=torch.rand(8, 1, 4, 4))
