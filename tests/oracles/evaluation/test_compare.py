"""A comparison against its parts: each metric by itself, intervals, ranks and correlations by other programs."""

import json
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
from pellucid.engine.comparison import ranks
from pellucid.evaluation import InsertionDeletion

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
            assert found.values[i, j].item() == pytest.approx(mean)
            assert found.parts["low"][i, j].item() == pytest.approx(mean - 1.96 * error)
            assert found.parts["high"][i, j].item() == pytest.approx(mean + 1.96 * error)


def test_ranks_and_the_recommendation():
    found = px.compare(Net(), drawn(7, 6, seed=5), METHODS, METRICS)
    told = found.source["comparison"]
    assert told["better"] == {"deletion": "lower", "insertion": "higher"}
    assert np.allclose(found.parts["rank"][:, 0].numpy(), stats.rankdata(found.values[:, 0].numpy()))
    assert np.allclose(found.parts["rank"][:, 1].numpy(), stats.rankdata(-found.values[:, 1].numpy()))
    assert told["recommended"] == METHODS[int(found.parts["rank"].quantile(0.5, dim=1).argmin())]
    values = torch.tensor([2.0, torch.nan, 1.0, 2.0])
    assert ranks(values, "lower").nan_to_num(-1).tolist() == [2.5, -1.0, 1.0, 2.5]
    assert bool(ranks(values, "neither").isnan().all())


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
    monkeypatch.setattr("pellucid.evaluation.comparing._explained", _counting(asked))
    again = px.compare(net, x, METHODS, METRICS, folder=tmp_path)
    assert asked == ["vanilla-gradient"]
    assert torch.equal(again.values, whole.values)
    for name in ("rows", "low", "high", "rank", "agreement"):
        assert torch.equal(again.parts[name].nan_to_num(9), whole.parts[name].nan_to_num(9))
    net.last.bias.data += 1  # another model is not taken from there
    px.compare(net, x, METHODS[:1], METRICS, folder=tmp_path)
    assert asked == ["vanilla-gradient", "gradient-x-input"]


def _counting(asked):
    from pellucid.evaluation.comparing import _explained

    def explained(subject, ask, method, metrics):
        asked.append(method.card.name)
        return _explained(subject, ask, method, metrics)

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


def test_the_command_prints_the_table(capsys):
    from pellucid.__main__ import main

    arguments = ["compare", "zoo:digits-cnn", "test:0-1", "--methods", "gradient-x-input,grad-cam,deep-shap"]
    assert main([*arguments, "--metrics", "insertion-deletion"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("gradient-x-input", "grad-cam", "deep-shap", "lower is better"))
    assert main([*arguments, "--metrics", "insertion-deletion", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["source"]["comparison"]["means"]) == 3


def test_metrics_that_ask_again_are_left_out_where_that_would_take_long():
    metrics = ["insertion-deletion", "max-sensitivity"]
    found = px.compare(Net(), drawn(2, 6), ["gradient-x-input"], metrics, patience=0.0)
    told = found.source["comparison"]["refused"]["gradient-x-input"]
    assert list(told) == ["max-sensitivity"]
    assert "patience" in told["max-sensitivity"]
    patient = px.compare(Net(), drawn(2, 6), ["gradient-x-input"], metrics, patience=60.0)
    assert patient.source["comparison"]["refused"] == {}


def test_the_default_metrics_are_of_several_kinds():
    found = px.compare(Net(), drawn(3, 6, seed=5), ["gradient-x-input"], patience=60.0)
    told = found.source["comparison"]
    assert told["metrics"] == ["deletion", "insertion", "sensitivity-n", "max-sensitivity", "randomisation"]
    assert told["refused"] == {}
    assert bool(found.values.isfinite().all())
