"""Promises that belong to no single method: any model, any plug-in, one interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import pellucid as px
from pellucid.contract import FORMS, registered

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from pellucid.contract import Attribution, Card, Method

@dataclass(frozen=True, kw_only=True)
class Zero(Method):
    card: ClassVar[Card] = Card(name="plugged-zero", title="Zero", question="What if nothing mattered?",
                                form="attribution", scope="local", citation="none")
    def explain(self, subject, ask, state):
        return Attribution(values=ask.inputs.floats[0] * 0)
"""


def plugged(folder: Path, entry: str, code: str) -> subprocess.CompletedProcess[str]:
    """A process that finds an installed package with this entry point, explains by it and lists it."""
    (folder / "plugged.py").write_text(code)
    told = folder / "plugged-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[pellucid.methods]\nzero = {entry}\n")
    script = (
        "import json, torch, pellucid as px\n"
        "names = px.catalogue.names()\n"
        "r = px.explain(lambda x: x, torch.ones(2, 3), 'plugged-zero') if 'plugged-zero' in names else None\n"
        "print(json.dumps([len(names), None if r is None else r.values.tolist()]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)


def test_an_installed_package_adds_a_method_without_touching_pellucid(tmp_path: Path) -> None:
    done = plugged(tmp_path, "plugged:Zero", PLUGIN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[1] == [[0.0] * 3] * 2


def test_a_broken_plug_in_is_named_and_left_out(tmp_path: Path) -> None:
    done = plugged(tmp_path, "plugged:Zero", "raise OSError('no licence')")
    assert done.returncode == 0, done.stderr
    assert "'zero' (plugged:Zero) was left out: OSError: no licence" in done.stderr
    known, shown = json.loads(done.stdout)
    assert known >= len([n for n in registered() if not n.startswith("test-")])
    assert shown is None


@pytest.mark.parametrize("method", ["kernel-shap", "feature-ablation", "lime"])
def test_one_explainer_runs_unchanged_on_a_network_a_scikit_model_and_a_function(method: str) -> None:
    """The same logistic regression, spelt three ways, gets the same explanation."""
    numbers = np.random.default_rng(0)
    rows = numbers.normal(size=(80, 4))
    labels = (rows[:, 0] - 2 * rows[:, 2] > 0).astype(int)
    fitted = LogisticRegression().fit(rows, labels)
    weight = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
    bias = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    network = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(1)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(weight))
        network[0].bias.copy_(torch.tensor(bias))

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ torch.tensor(weight).T + torch.tensor(bias), 1)

    inputs = torch.tensor(rows[:3])
    found = [px.explain(m, inputs, method, target=1) for m in (network.eval(), fitted.predict_proba, function)]
    for other in found[1:]:
        torch.testing.assert_close(other.values, found[0].values, rtol=1e-9, atol=1e-12)
    assert (found[0].values[:, 2].abs() > found[0].values[:, 1].abs()).all()


def test_every_method_is_asked_the_same_way_and_answers_in_one_of_six_forms() -> None:
    cards = [method.card for method in registered().values()]
    assert len(cards) > 100
    for card in cards:
        assert card.form in FORMS
        assert card.needs
        assert card.data_types
