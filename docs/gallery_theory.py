"""Figures about methods themselves: which must say the same, and how good each is by five qualities."""

from __future__ import annotations

from gallery_entry import Drawn, entry

import pellucid as px
from pellucid.evaluation.relation_list import RELATIONS
from pellucid.show.words import number

# What the network is asked for, class by class; rows of the test set are far enough from its bends.
ROWS = 6
METHODS = ("shapley-value", "shapley-sampling", "integrated-gradients", "deep-shap", "lime", "vanilla-gradient")


def relations() -> Drawn:
    """The theory tried on a network for flowers, whose biases break some relations and leave others whole."""
    world, model = px.zoo.data("iris-mlp"), px.zoo.load("iris-mlp")
    rows, known = world.test[0][:ROWS].double(), world.train[0][:20].double()
    # it has no maps, and what rectifiers alone change is another figure's matter
    asked = tuple(r.name for r in RELATIONS if not {"pooled head", "no rectifier"} & {*r.needs})
    found = px.explain(model.double(), rows, px.evaluation.MethodRelations(relations=asked), data=known)
    told = {r["name"]: r for r in found.source["relations"]}
    by = {s: [n for n, r in told.items() if r["state"] == s] for s in ("holds", "broken", "differs", "not tried")}
    assert not by["broken"]
    assert found.values.tolist() == [0.0] * ROWS
    assert {"LRP-0 is gradient × input", "Kernel SHAP with all coalitions", "γ of zero"} <= set(by["holds"])
    assert {"straight path", "bent at the reference", "conservation"} <= set(by["differs"])
    largest = max(told[n]["gap"] for n in by["holds"])
    path = told["straight path"]["gap"]
    sentence = (
        f"On the network for flowers {len(by['holds'])} relations have their preconditions, and all of them hold, by "
        f"{number(largest)} of the largest value at most; {len(by['differs'])} lack one and do differ. Gradient × input, "
        f"which equals integrated gradients where rectifiers have no biases, is off by up to {100 * path:.0f} % here."
    )
    numbers = {"holds": len(by["holds"]), "differs": len(by["differs"]), "largest gap": largest, "straight path": path}
    return Drawn(found.show(), sentence, numbers)


def qualities() -> Drawn:
    """Six explanations of the same answers, by exactness, consistency, completeness and universality."""
    world, model = px.zoo.data("iris-mlp"), px.zoo.load("iris-mlp")
    rows, known = world.test[0][:ROWS].double(), world.train[0][:20].double()
    chosen = dict.fromkeys(METHODS) | {
        "shapley-sampling": px.attribution.ShapleySampling(walks=2, design="plain"),
    }
    methods = {name: name if method is None else method for name, method in chosen.items()}
    found = px.evaluation.scorecard(model.double(), rows, methods, data=known)
    exact = dict(zip(METHODS, found.values[:, 0].tolist(), strict=True))
    spread = dict(zip(METHODS, found.values[:, 1].tolist(), strict=True))
    kinds = dict(zip(METHODS, found.values[:, 3].tolist(), strict=True))
    assert exact["shapley-value"] < 1e-9
    assert exact["shapley-sampling"] > 0.02
    assert min(spread, key=spread.__getitem__) == "shapley-sampling"
    assert kinds["shapley-value"] == 1.0 > kinds["integrated-gradients"]
    assert found.values[:, 2].tolist() == [1.0] * len(METHODS)
    off, share = 100 * exact["shapley-sampling"], 100 * kinds["integrated-gradients"]
    sentence = (
        f"Shapley values from two orders of the columns miss those from all by {off:.0f} %, and other seeds give maps at "
        f"a cosine of {number(spread['shapley-sampling'])}. Methods that only ask work on every kind of model, integrated "
        f"gradients on {share:.0f} %, as two of them have no gradient."
    )
    return Drawn(found.show(), sentence, {"exactness": exact, "consistency": spread, "universality": kinds})


ENTRIES = (
    *entry("relations", "Relations between methods", "systematic-theory-of-explanation", relations),
    *entry(
        "qualities",
        "Qualities of an explanation",
        "exactness-quality consistency-quality completeness-quality universality-quality",
        qualities,
    ),
)
