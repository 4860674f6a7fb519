"""Local explanation vectors against two Gaussians in closed form, loops over the data and finite differences."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid import worlds, zoo
from pellucid.attribution import ExplanationVectors
from pellucid.attribution.explanation_vectors import candidates, choose, left_out
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError

DOUBLE = {"dtype": torch.float64}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def thirds(x):
    """A black box of three classes: which of three curved scores is largest."""
    return torch.stack([x[:, 0], x[:, 1] ** 2 - 0.5, -x[:, 0] + 0.3 * x[:, 1]], dim=1)


def other_probability(x, points, classes, c, width):
    """P(Y ≠ c | x) as in the paper: kernels of the other classes over kernels of all, one by one."""
    kernels = [math.exp(-sum((a - b) ** 2 for a, b in zip(x, p, strict=True)) / (2 * width**2)) for p in points]
    return sum(k for k, label in zip(kernels, classes, strict=True) if label != c) / sum(kernels)


def test_two_gaussians_have_their_closed_form():
    # One row of each class at ±a: P(Y ≠ 1 | x) = 1 / (1 + exp(2 a·x/σ²)), so its derivative is -s(1 - s)·2a/σ² with
    # s = sigmoid(2 a·x/σ²): away from the class on every side of the boundary.
    a, width = torch.tensor([1.0, -0.5, 0.25], **DOUBLE), 1.3
    x = draw(6, 3)

    def model(v):
        return torch.stack([-v @ a, v @ a], dim=1)

    got = px.explain(model, x, ExplanationVectors(bandwidth=width), data=torch.stack([a, -a]), target=1)
    s = torch.sigmoid(2 * x @ a / width**2)
    assert torch.allclose(got.values, -(s * (1 - s))[:, None] * 2 * a / width**2, rtol=1e-12, atol=0)
    assert torch.allclose(got.facts["other_probability"], 1 - s, rtol=1e-12, atol=0)
    assert bool((got.values @ a < 0).all())
    # For the predicted class, the vector leads to the other side of the boundary.
    own = px.explain(model, x, ExplanationVectors(bandwidth=width), data=torch.stack([a, -a]))
    assert bool(((own.values @ a) * (x @ a) < 0).all())


def test_many_rows_of_two_gaussians_approach_the_true_posterior():
    # Rows from N(±1, 1) with the class they came from: smoothed by σ, P(Y = 1 | x) = sigmoid(2x / (1 + σ²)).
    count, width = 20_000, 0.4
    label = torch.arange(count) % 2
    rows = draw(count, 1, seed=4) + (2.0 * label[:, None] - 1)
    table = dict(zip(rows[:, 0].tolist(), label.tolist(), strict=True))

    def model(v):
        return nn.functional.one_hot(torch.tensor([table.get(float(r), int(r > 0)) for r in v[:, 0]]), 2).double()

    x = torch.tensor([[-1.0], [-0.2], [0.3], [1.2]], **DOUBLE)
    got = px.explain(model, x, ExplanationVectors(bandwidth=width), data=rows, target=1)
    s = torch.sigmoid(2 * x / (1 + width**2))
    assert torch.allclose(got.values, -s * (1 - s) * 2 / (1 + width**2), atol=0.03)


@pytest.mark.parametrize("target", [None, 2])
def test_vectors_are_the_derivative_of_the_estimate(target):
    points, x, width, step = draw(30, 2, seed=1), draw(5, 2, seed=2), 0.6, 1e-5
    labels = thirds(points).argmax(1).tolist()
    got = px.explain(thirds, x, ExplanationVectors(bandwidth=width), data=points, target=target)
    for row in range(5):
        c = int(thirds(x)[row].argmax()) if target is None else target
        for column in range(2):
            ends = []
            for sign in (1, -1):
                moved = x[row].clone()
                moved[column] += sign * step
                ends.append(other_probability(moved.tolist(), points.tolist(), labels, c, width))
            assert math.isclose(float(got.values[row, column]), (ends[0] - ends[1]) / (2 * step), abs_tol=1e-8)
        here = other_probability(x[row].tolist(), points.tolist(), labels, c, width)
        assert math.isclose(float(got.facts["other_probability"][row]), here, rel_tol=1e-12)
    assert torch.equal(got.target, thirds(x).argmax(1) if target is None else torch.full((5,), 2))


def test_vectors_are_the_papers_sums():
    # (Σ_in k)(Σ_out k (x - x_i)) and its like over (Σ k)², as in definition 2, with dk_i/dx = -k_i (x - x_i)/σ².
    points, x, width = draw(20, 3, seed=3), draw(4, 3, seed=5), 0.9
    model = nn.Linear(3, 2).double().eval()
    labels = model(points).argmax(1)
    got = px.explain(model, x, ExplanationVectors(bandwidth=width), data=points)
    for row in range(4):
        c = model(x[row : row + 1]).argmax(1)
        inside, outside, pulled_in, pulled_out = 0.0, 0.0, torch.zeros(3, **DOUBLE), torch.zeros(3, **DOUBLE)
        for i in range(20):
            k = math.exp(-float((x[row] - points[i]).square().sum()) / (2 * width**2))
            if labels[i] == c:
                inside, pulled_in = inside + k, pulled_in + k * (x[row] - points[i])
            else:
                outside, pulled_out = outside + k, pulled_out + k * (x[row] - points[i])
        wanted = (outside * pulled_in - inside * pulled_out) / (width**2 * (inside + outside) ** 2)
        assert torch.allclose(got.values[row], wanted, rtol=1e-10, atol=1e-14)


def test_facts_say_when_the_mimic_can_be_believed():
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0]], **DOUBLE)
    model = lambda v: torch.cat([v - 1.5, 1.5 - v], dim=1)  # noqa: E731 - classes 1 1 0 0
    x = torch.tensor([[1.4], [1e6]], **DOUBLE)
    got = px.explain(model, x, ExplanationVectors(bandwidth=0.5), data=points)
    w = torch.exp(-((x[0] - points[:, 0]) ** 2) / 0.5)
    w = w / w.sum()
    assert math.isclose(float(got.facts["effective_rows"][0]), float(1 / (w**2).sum()), rel_tol=1e-12)
    assert got.facts["mimic_agrees"].tolist() == [1.0, 1.0]
    assert got.facts["bandwidth"].tolist() == [0.5, 0.5]
    assert (float(got.facts["effective_rows"][1]), float(got.values[1])) == (
        1.0,
        0.0,
    )  # far away: one row, no direction
    # Where the windows are wide, rows 0 and 1 together outweigh row 2 at 1.6, which the model puts in its class.
    wide = px.explain(model, torch.tensor([[1.6]], **DOUBLE), ExplanationVectors(bandwidth=2.0), data=points)
    assert wide.facts["mimic_agrees"].tolist() == [0.0]
    assert float(wide.facts["other_probability"]) > 0.5


def test_bandwidth_is_the_one_that_predicts_left_out_rows():
    points = draw(25, 2, seed=6)
    labels = thirds(points).argmax(1)
    widths = candidates(points, 1 << 20)
    shares = []
    for width in widths:
        hits = 0
        for i in range(25):
            rest = [j for j in range(25) if j != i]
            known, classes = points[rest].tolist(), labels[rest].tolist()
            chance = [1 - other_probability(points[i].tolist(), known, classes, c, width) for c in range(3)]
            hits += chance.index(max(chance)) == int(labels[i])
        shares.append(hits / 25)
    assert left_out(points, labels, widths, 1 << 20) == shares
    assert len(set(shares)) > 1  # there is something to choose
    best = max(w for w, share in zip(widths, shares, strict=True) if share == max(shares))
    assert choose(points, labels, 1 << 20) == best
    got = px.explain(thirds, points[:2], "explanation-vectors", data=points)
    assert got.source["bandwidth"] == best
    assert got.source["leave_one_out_fidelity"] == max(shares)
    # A quarter of the median nearest distance, and the median distance.
    table = (points[:, None] - points).norm(dim=2)
    table.fill_diagonal_(torch.inf)
    assert math.isclose(widths[0], float(table.min(1).values.median()) / 4, rel_tol=1e-9)
    assert math.isclose(widths[-1], float(table.median(1).values.median()), rel_tol=1e-9)


def test_a_layer_is_explained_as_the_input_of_what_follows():
    body, head = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 3)
    model = nn.Sequential(body, head).double().eval()
    data, x = draw(40, 3, seed=7), draw(5, 3, seed=8)
    inner = px.explain(model, x, ExplanationVectors(bandwidth=0.4), data=data, layer="0")
    outer = px.explain(head, body(x).detach(), ExplanationVectors(bandwidth=0.4), data=body(data).detach())
    assert torch.allclose(inner.values, outer.values, atol=1e-12)


def test_rows_chunks_types_and_structure():
    data, x = draw(60, 6, seed=9), draw(5, 6, seed=10)
    model = nn.Linear(6, 3).double().eval()
    whole = px.explain(model, x, "explanation-vectors", data=data)
    small = px.explain(model, x, "explanation-vectors", data=data, memory=60 * 48)
    assert torch.allclose(small.values, whole.values, rtol=0, atol=1e-12)
    for i in range(5):
        alone = px.explain(model, x[i : i + 1], "explanation-vectors", data=data)
        assert torch.allclose(alone.values[0], whole.values[i], rtol=0, atol=1e-12)
        assert all(torch.allclose(alone.facts[k][0], whole.facts[k][i], rtol=1e-12, atol=0) for k in whole.facts)
    single = px.explain(model.float(), x.float(), "explanation-vectors", data=data.float())
    assert single.values.dtype == torch.float32
    assert torch.allclose(single.values.double(), whole.values, atol=1e-5)
    image = nn.Sequential(nn.Flatten(), model).eval()
    shaped = px.explain(image, x.float().view(5, 1, 2, 3), "explanation-vectors", data=data.view(60, 1, 2, 3))
    assert torch.equal(shaped.values.flatten(1), single.values)


def test_what_cannot_be_done_is_refused():
    data, model = draw(10, 2), nn.Linear(2, 2).double().eval()

    def ask(method="explanation-vectors", subject=model, **more):
        return px.explain(subject, data[:2], method, **{"data": data, **more})

    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(MethodError):
            ask(ExplanationVectors(bandwidth=wrong))
    with pytest.raises(NeedError):
        ask(data=None)
    for target in (lambda out: out[:, 0], px.margin(0, 1), px.unit("0", 0)):
        with pytest.raises(TargetError):
            ask(subject=nn.Sequential(model).eval(), target=target)
    with pytest.raises(NeedError, match="two classes"):
        ask(subject=nn.Linear(2, 1).double().eval())
    with pytest.raises(InputError, match="at least 2"):
        ask(data=data[:1])
    with pytest.raises(InputError, match="different rows"):
        ask(data=data[:1].expand(5, 2))


def test_on_iris_the_field_follows_the_petals():
    world = worlds.iris()
    got = px.explain(zoo.load("iris-mlp"), world.test[0], "explanation-vectors", data=world)
    assert got.source["leave_one_out_fidelity"] >= 0.9
    assert got.facts["mimic_agrees"].mean() >= 0.9
    size = got.values.abs().mean(0)
    assert size[2:].sum() > size[:2].sum()  # sepal length and width, then petal length and width
    assert torch.isfinite(got.values).all()
