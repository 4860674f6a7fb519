"""A comparison against its parts: each metric by itself, intervals, ranks and correlations by other programs."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pellucid as px
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, TargetError
from pellucid.engine.ranks import placed
from pellucid.evaluation import InsertionDeletion
from pellucid.evaluation.comparing_column import Run, rounded

DOUBLE = {"dtype": torch.float64}
METRICS = {
    "deletion": InsertionDeletion(way="deletion", features="element"),
    "insertion": InsertionDeletion(way="insertion", features="element"),
}
METHODS = ["gradient-x-input", "feature-ablation", "vanilla-gradient"]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5, **DOUBLE), nn.Linear(5, 3, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


@dataclass(frozen=True, kw_only=True)
class Broken(Method):
    """Fails on every call, or has no value for some rows."""

    nan: bool = False

    card: ClassVar[Card] = Card(
        name="test-broken", title="Broken", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        if not self.nan:
            raise ValueError("a bug\nof two lines")
        ask.score  # noqa: B018
        values = ask.inputs.floats[0].clone()
        values[1] = torch.nan
        return Attribution(values=values)


def test_figures_are_those_of_each_metric_by_itself():
    net, x, target = Net(), drawn(7, 6, seed=5), torch.arange(7) % 3
    found = px.compare(net, x, METHODS, METRICS, target=target)
    for i, method in enumerate(METHODS):
        for j, metric in enumerate(METRICS.values()):
            alone = px.explain(net, x, InsertionDeletion(of=method, way=metric.way, features="element"), target=target)
            assert torch.allclose(found.parts["rows"][i, j], alone.values, atol=1e-12)
            mean, error = np.mean(alone.values.numpy()), stats.sem(alone.values.numpy())
            low, high = stats.t.interval(0.95, 6, mean, error)
            assert found.values[i, j].item() == pytest.approx(mean)
            assert found.parts["low"][i, j].item() == pytest.approx(low)
            assert found.parts["high"][i, j].item() == pytest.approx(high)


def test_ranks_and_the_recommendation():
    found = px.compare(Net(), drawn(7, 6, seed=5), METHODS, METRICS)
    told = found.source["comparison"]
    assert told["better"] == {"deletion": "lower", "insertion": "higher"}
    assert np.allclose(found.parts["rank"][:, 0].numpy(), stats.rankdata(found.values[:, 0].numpy()))
    assert np.allclose(found.parts["rank"][:, 1].numpy(), stats.rankdata(-found.values[:, 1].numpy()))
    assert told["recommended"] == METHODS[int(found.parts["rank"].quantile(0.5, dim=1).argmin())]
    values = torch.tensor([2.0, torch.nan, 1.0, 2.0])
    assert placed(values, "lower").nan_to_num(-1).tolist() == [2.5, -1.0, 1.0, 2.5]
    assert bool(placed(values, "neither").isnan().all())


def test_agreement_is_spearmans_correlation():
    net, x = Net(), drawn(4, 6, seed=5).round()
    found = px.compare(net, x, METHODS, METRICS).parts["agreement"]
    maps = [px.explain(net, x, m).values.numpy() for m in METHODS]
    for i in range(3):
        for j in range(3):
            want = np.mean([stats.spearmanr(maps[i][r], maps[j][r])[0] for r in range(4)])
            assert found[i, j].item() == pytest.approx(want, abs=1e-12)


def test_what_does_not_fit_is_listed_with_its_reason():
    methods = {
        "good": "gradient-x-input",
        "bug": Broken(),
        "gap": Broken(nan=True),
        "images": "cam",
        "rows": "deep-shap",
    }
    found = px.compare(Net(), drawn(3, 6, seed=5), methods, METRICS)
    told = found.source["comparison"]
    assert told["methods"] == list(methods)
    assert told["refused"]["bug"] == {"": "ValueError: a bug"}
    assert "examples" in told["refused"]["rows"][""]
    assert "good" not in told["refused"]
    assert bool(found.values[0].isfinite().all())
    assert bool(found.values[1].isnan().all())
    assert found.describe()
    assert "a bug" in found.describe()


def test_rows_without_a_figure_are_left_out_and_named():
    found = px.compare(Net(), drawn(3, 6, seed=5), {"gap": Broken(nan=True)}, METRICS)
    rows = found.parts["rows"][0]
    assert found.source["comparison"]["without"] == {"gap": [1]}
    assert bool(rows[:, 1].isnan().all())
    assert torch.allclose(found.values[0], rows[:, [0, 2]].mean(1))


def test_maps_of_a_layer_are_enlarged():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).double().eval()
    found = px.compare(net, drawn(2, 2, 8, 8), ["grad-cam", "gradient-x-input"], "insertion-deletion")
    assert bool(found.values.isfinite().all())
    assert not found.source["comparison"]["refused"]


def test_data_go_to_those_that_need_them_alone():
    net, x, data = Net(), drawn(3, 6, seed=5), drawn(9, 6, seed=6)
    found = px.compare(net, x, ["expected-gradients", "integrated-gradients"], METRICS, data=data)
    assert not found.source["comparison"]["refused"]
    alone = px.explain(net, x, InsertionDeletion(of="integrated-gradients", features="element"))
    assert torch.allclose(found.parts["rows"][1, 0], alone.values)


def test_begun_again_it_takes_what_was_done_and_gives_the_same(tmp_path, monkeypatch):
    net, x = Net(), drawn(3, 6, seed=5)
    whole = px.compare(net, x, METHODS, METRICS)
    px.compare(net, x, METHODS[:2], METRICS, folder=tmp_path)  # as if it had been killed after two
    asked = []
    monkeypatch.setattr(Run, "_explained", _counting(asked))
    again = px.compare(net, x, METHODS, METRICS, folder=tmp_path)
    assert asked == ["vanilla-gradient"]
    assert torch.equal(again.values, whole.values)
    for name in ("rows", "low", "high", "rank", "agreement"):
        assert torch.equal(again.parts[name].nan_to_num(9), whole.parts[name].nan_to_num(9))
    net.last.bias.data += 1  # another model is not taken from there
    px.compare(net, x, METHODS[:1], METRICS, folder=tmp_path)
    assert asked == ["vanilla-gradient", "gradient-x-input"]


def _counting(asked):
    real = Run._explained

    def explained(run, method, watch, column):
        asked.append(method.card.name)
        return real(run, method, watch, column)

    return explained


def test_it_can_be_saved_shown_and_holds_no_markup(tmp_path):
    labels = {"<img src=x onerror=alert(1)>": "gradient-x-input", "=1+1\x1b[2J": "vanilla-gradient"}
    found = px.compare(Net(), drawn(3, 6, seed=5), labels, METRICS)
    back = px.load(found.save(tmp_path / "c.safetensors"))
    assert torch.equal(back.values, found.values)
    assert back.source["comparison"]["methods"] == list(labels)
    html = found.html(whole=True)
    assert "<img src=x" not in html
    assert found.show().axes


@pytest.mark.parametrize(
    ("methods", "metrics", "error"),
    [
        ([], METRICS, InputError),
        (["gradient-x-input"], [], InputError),
        (3, METRICS, InputError),
        (["no-such-method"], METRICS, MethodError),
        (["cart-c45-surrogate"], METRICS, MethodError),
        (["gradient-x-input"], ["gradient-x-input"], MethodError),
    ],
)
def test_what_is_refused_before_the_model_runs(methods, metrics, error):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(error):
        px.compare(model, drawn(2, 6), methods, metrics)


def test_targets_are_checked_as_for_one_method():
    with pytest.raises(TargetError):
        px.compare(Net(), drawn(2, 6), METHODS, METRICS, target=3)


@dataclass(frozen=True, kw_only=True)
class Chance(Method):
    """A map of noise."""

    number: int = 0

    card: ClassVar[Card] = Card(
        name="test-random-map", title="Chance", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Attribution(values=drawn(*ask.inputs.floats[0].shape, seed=100 + self.number))


def test_on_a_linear_model_the_weights_and_the_contributions_are_as_good_as_can_be():
    """Zero baseline: w is without infidelity and never moves; w·x correlates at every size and has the best areas."""
    net = nn.Linear(5, 2, **DOUBLE).eval()
    net.weight.data, net.bias.data = drawn(2, 5, seed=1), drawn(2, seed=2)
    x = drawn(4, 5, seed=3)
    chance = {f"chance {k}": Chance(number=k) for k in range(8)}
    metrics = {
        "deletion": InsertionDeletion(way="deletion", features="element"),
        "insertion": InsertionDeletion(way="insertion", features="element"),
        "sensitivity-n": px.evaluation.SensitivityN(features="element", sizes=(1, 2, 3, 4)),
        "infidelity": px.evaluation.Infidelity(reading="slope", samples=20),
        "max-sensitivity": px.evaluation.MaxSensitivity(),
    }
    found = px.compare(net, x, {"w": "vanilla-gradient", "w·x": "gradient-x-input", **chance}, metrics, target=1)
    rows, share = found.parts["rows"], np.linspace(0, 1, 6)
    assert rows[0, 3].abs().max() < 1e-20  # infidelity of w, for any change
    assert rows[0, 4].abs().max() == 0
    assert torch.allclose(rows[1, 2], torch.ones(4, **DOUBLE))
    w, b = net.weight[1].detach().numpy(), net.bias[1].item()
    for r in range(4):
        parts = w * x[r].numpy()
        orders = [np.cumsum([0.0, *parts[list(order)]]) for order in itertools.permutations(range(5))]
        alone = [np.trapezoid(b + curve, share) for curve in orders]
        gone = [np.trapezoid(b + parts.sum() - curve, share) for curve in orders]
        assert rows[1, 0, r].item() == pytest.approx(min(gone))
        assert rows[1, 1, r].item() == pytest.approx(max(alone))
    mean = rows.mean(2)
    assert mean[2:, 0].mean() > mean[1, 0] + 0.5
    assert mean[2:, 1].mean() < mean[1, 1] - 0.5
    assert mean[2:, 2].mean() < 0.5
    assert mean[2:, 3].mean() > 0.1


def test_metrics_that_disagree_are_shown_and_no_figure_is_made_of_them_all():
    """A long map of noise is sparse or not, and that says nothing of its faithfulness."""
    methods = {"contributions": "gradient-x-input", "slopes": "vanilla-gradient", "few": Few(), "chance": Chance()}
    metrics = {"insertion": METRICS["insertion"], "sparsity": px.evaluation.HeatmapEntropy(figure="gini")}
    found = px.compare(Net(), drawn(9, 6, seed=5), methods, metrics)
    told, rank = found.source["comparison"], found.parts["rank"].numpy()
    want = stats.spearmanr(rank[:, 0], rank[:, 1])[0]
    assert found.parts["metric_agreement"][0, 1].item() == pytest.approx(want)
    assert want < 0
    assert told["methods"][int(rank[:, 1].argmin())] == "few"
    assert told["recommended"] == told["methods"][int(rank[:, 0].argmin())] != "few"  # simplicity has no say
    assert "insertion" in told["reason"]
    assert "sparsity" not in told["reason"]
    assert "opposite orders" in found.describe()
    assert found.values.shape == (4, 2)


def test_what_fails_a_test_of_sanity_is_not_recommended_and_how_well_others_pass_is_no_merit():
    """The input itself is the same map for any weights; here it is also the contributions' order."""
    net = nn.Sequential(nn.Linear(6, 1, bias=False), nn.Linear(1, 2)).double().eval()
    net[0].weight.data = 1 + 0.01 * torch.arange(6.0, **DOUBLE)[None]
    net[1].weight.data = torch.tensor([[1.0], [-1.0]], **DOUBLE)
    x = drawn(6, 6).abs()
    metrics = {"insertion": METRICS["insertion"], "random": px.evaluation.ModelRandomisationTest(draws=2)}
    found = px.compare(net, x, {"itself": Itself(), "slopes": "vanilla-gradient"}, metrics, target=0)
    told = found.source["comparison"]
    assert told["counted"] == ["insertion"]
    assert found.parts["rank"][0, 0] <= found.parts["rank"][1, 0]
    assert told["failed"] == {"itself": ["random"]}
    assert found.parts["rank"][:, 1].tolist() == [2.0, 1.0]
    same = px.compare(Net(), x, METHODS, metrics, target=0)
    assert not same.source["comparison"]["failed"]
    assert same.parts["rank"][:, 1].tolist() == [2.0, 2.0, 2.0]
    assert told["recommended"] == "slopes"
    assert "pass random" in told["reason"]
    alone = px.compare(net, x, {"itself": Itself()}, metrics, target=0)
    assert alone.source["comparison"]["recommended"] == ""
    assert "random" in alone.source["comparison"]["reason"]
    assert "fails random" in alone.describe()


@dataclass(frozen=True, kw_only=True)
class Itself(Method):
    """The input as its own explanation."""

    card: ClassVar[Card] = Card(
        name="test-itself", title="Itself", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Attribution(values=ask.inputs.floats[0].clone())


@dataclass(frozen=True, kw_only=True)
class Few(Method):
    """Points at the input that matters least."""

    card: ClassVar[Card] = Card(
        name="test-few", title="Few", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        values = torch.zeros_like(ask.inputs.floats[0])
        values[:, -1] = -1.0
        return Attribution(values=values)


class Clock:
    """Time that only a method turns."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("pellucid.engine.deadline.time.perf_counter", lambda: self.now)


@dataclass(frozen=True, kw_only=True)
class Slow(Method):
    """Takes so many seconds for fitting and so many for each row, and tells how far it is."""

    fitting: float = 0.0
    row: float = 1.0
    tells: bool = True
    clock: ClassVar[Clock | None] = None

    card: ClassVar[Card] = Card(
        name="test-slow", title="Slow", question="What?", form="attribution", scope="local", citation="none"
    )

    def prepare(self, subject, ask):
        self.clock.now += self.fitting

    def explain(self, subject, ask, state):
        with ask.progress.bar(ask.inputs.rows, "slow") as tell:
            for _ in range(ask.inputs.rows):
                self.clock.now += self.row
                tell(1) if self.tells else None
        subject.scores(ask.inputs)
        return Attribution(values=ask.inputs.floats[0].clone())


@pytest.fixture
def clock(monkeypatch):
    made = Clock(monkeypatch)
    monkeypatch.setattr(Slow, "clock", made)
    return made


def refusals(methods, **settings):
    found = px.compare(Net(), drawn(20, 6), methods, ["insertion-deletion", "max-sensitivity"], **settings)
    return found.source["comparison"]["refused"]


def test_what_takes_longer_than_the_budget_is_stopped_soon_and_listed_with_one_that_includes_it(clock):
    told = refusals({"slow": Slow()}, budget=10.0)["slow"]
    assert told == {"": "it would take about 20 s: budget=30 includes it"}
    assert clock.now <= 3.0  # the pace is known from the second row on
    clock.now = 0.0
    told = refusals({"silent": Slow(tells=False)}, budget=10.0)["silent"]
    assert told == {"": "it takes more than 10 s: a larger budget includes it"}
    assert "" not in refusals({"slow": Slow()}, budget=30.0).get("slow", {})
    assert refusals({"slow": Slow()}, budget=None) == {}


def test_metrics_that_ask_again_are_left_out_where_that_would_take_long(clock):
    """Ten explanations of all rows, each as long as the first; what was fitted once is not fitted again for them."""
    told = refusals({"slow": Slow(row=0.1), "fits": Slow(fitting=8.0, row=0.01)}, budget=10.0)
    assert told == {"slow": {"max-sensitivity": "it would take about 20 s: budget=30 includes it"}}


def test_the_budget_that_is_named_is_round():
    assert [rounded(x) for x in (0.2, 4.01, 29.1, 213.0, 4400.0)] == [0.2, 4.1, 30.0, 220.0, 4400.0]


def test_ctrl_c_keeps_what_is_done_and_a_larger_budget_asks_again_for_what_was_left_out(tmp_path, clock):
    net, x = Net(), drawn(20, 6)
    methods = {"quick": "gradient-x-input", "slow": Slow(), "stop": Interrupted()}
    with pytest.raises(KeyboardInterrupt):
        px.compare(net, x, methods, METRICS, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    before = clock.now
    del methods["stop"]
    again = px.compare(net, x, methods, METRICS, folder=tmp_path)
    assert clock.now == before
    assert "budget=30" in again.source["comparison"]["refused"]["slow"][""]
    more = px.compare(net, x, methods, METRICS, folder=tmp_path, budget=30.0)
    assert more.source["comparison"]["refused"] == {}
    assert clock.now > before + 19


@dataclass(frozen=True, kw_only=True)
class Interrupted(Method):
    """Somebody presses Ctrl-C meanwhile."""

    card: ClassVar[Card] = Card(
        name="test-interrupted", title="Stop", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        raise KeyboardInterrupt


def test_the_default_metrics_are_of_several_kinds():
    found = px.compare(Net(), drawn(3, 6, seed=5), ["gradient-x-input"], budget=None)
    told = found.source["comparison"]
    assert told["metrics"] == [
        *("deletion", "insertion", "sensitivity-n", "max-sensitivity", "randomisation", "sparsity")
    ]
    qualities = {about["quality"] for about in told["about"].values()}
    assert qualities == {"faithfulness", "stability", "sanity", "simplicity"}
    assert all(about["cost"] and about["assumption"] for about in told["about"].values())
    assert told["refused"] == {}
    assert bool(found.values.isfinite().all())


@pytest.mark.parametrize("budget", [0, -1.0, True, "10", float("nan")])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(InputError, match="budget"):
        px.compare(lambda x: x, drawn(2, 6), METHODS, METRICS, budget=budget)


def test_what_metrics_ask_alike_for_every_method_is_asked_once():
    """Sensitivity-n draws the same subsets for every method: the second method adds its explanation alone."""
    x, metric = drawn(3, 6), {"n": px.evaluation.SensitivityN(features="element")}

    def cost(*methods):
        net, asked = Net(), []

        def call(model, value):
            asked.append(len(value))
            return model(value)

        found = px.compare(px.Subject(net, call=call), x, list(methods), metric)
        return sum(asked), found.parts["rows"]

    one, alone = cost("gradient-x-input")
    two, both = cost("gradient-x-input", "feature-ablation")
    assert one > 60
    assert two - one <= 3 * 7 + 7
    assert torch.equal(both[0], alone[0])
    apart = px.explain(Net(), x, px.evaluation.SensitivityN(of="feature-ablation", features="element"))
    assert torch.allclose(both[1, 0], apart.values, atol=1e-12)


def test_what_is_shared_is_one_question_alone():
    """Other fills are other questions, also where what is gone is the same."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double().eval()
    x, fills = drawn(2, 1, 6, 6), (0.0, "mean", "imputed", 1.5)
    metrics = {str(b): InsertionDeletion(baseline=b, features="element") for b in fills}
    found = px.compare(net, x, ["gradient-x-input"], metrics)
    for k, metric in enumerate(metrics.values()):
        alone = px.explain(net, x, dataclasses.replace(metric, of="gradient-x-input"))
        assert torch.equal(found.parts["rows"][0, k], alone.values)


def test_maps_of_a_layer_are_enlarged_also_where_a_metric_asks_again():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).double().eval()
    for number, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=number).abs()  # so that no map is empty
    found = px.compare(net, drawn(2, 2, 8, 8).abs(), ["grad-cam"], ["max-sensitivity", "model-randomization-test"])
    assert not found.source["comparison"]["refused"]
    assert bool(found.values.isfinite().all())


class Reader(nn.Module):
    """Token ids, an embedding, and a line over tanh of the words."""

    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(9, 4, **DOUBLE), nn.Linear(4, 2, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, ids):
        return self.last(torch.tanh(self.words(ids)).sum(1))


def test_tokens_are_explained_and_measured_at_the_embedding():
    net, ids = Reader(), torch.tensor([[1, 2, 3, 4, 5], [5, 6, 7, 8, 1]])
    methods = ["gradient-x-input", "integrated-gradients", "feature-ablation"]
    found = px.compare(net, ids, methods)
    told = found.source["comparison"]
    assert found.source["layer"] == "words"
    assert told["refused"] == {}
    assert bool(found.values.isfinite().all())
    for i, method in enumerate(methods):
        metric = InsertionDeletion(of=method)
        assert torch.allclose(found.parts["rows"][i, 0], px.explain(net, ids, metric, layer="words").values, atol=1e-12)
    named = px.compare(net, ids, methods, layer="words")
    assert torch.equal(named.values, found.values)


def test_a_plain_function_is_compared_by_what_needs_predictions_alone():
    net = Net()
    found = px.compare(lambda rows: net(rows), drawn(3, 6), ["feature-ablation", "gradient-x-input"])
    told = found.source["comparison"]
    assert "torch module" in told["refused"]["gradient-x-input"][""]
    assert list(told["refused"]["feature-ablation"]) == ["randomisation"]
    assert "torch module" in told["refused"]["feature-ablation"]["randomisation"]
    assert told["recommended"] == "feature-ablation"


def test_a_layer_can_be_named():
    net, x = Net(), drawn(3, 6)
    found = px.compare(net, x, ["gradient-x-input"], METRICS, layer="first")
    alone = px.explain(net, x, InsertionDeletion(of="gradient-x-input", features="element"), layer="first")
    assert torch.allclose(found.parts["rows"][0, 0], alone.values, atol=1e-12)
    assert found.source["layer"] == "first"


def test_intervals_that_lie_apart_keep_their_order_under_other_seeds():
    """The scorecard's order is stable under reseeding within the intervals that it states."""
    net, x = Net(), drawn(12, 6, seed=5)
    methods = [*METHODS, "smoothgrad", "shapley-sampling", "kernel-shap", "lime"]
    runs = [px.compare(net, x, methods, "default", seed=seed, target=0) for seed in range(4)]
    low, high = runs[0].parts["low"], runs[0].parts["high"]
    apart = [
        (i, j, k)
        for k in range(low.shape[1])
        for i in range(len(methods))
        for j in range(len(methods))
        if high[i, k] < low[j, k]
    ]
    assert len(apart) >= 20
    for run in runs[1:]:
        assert all(run.values[i, k] < run.values[j, k] for i, j, k in apart)
