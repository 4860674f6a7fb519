"""Figures of explanations by example."""

from __future__ import annotations

from gallery_entry import Drawn, explain, of_cases
from gallery_panels import Case, pictures

import pellucid as px


def neighbours(case: Case) -> Drawn:
    """The training digits that the network represents most like this one."""
    result = explain(case, px.examples.DeepNearestNeighbours(neighbours=6), data=case.world)
    labels = result.labels[0].tolist()
    said = int(case.scores(case.input).argmax())
    alike = sum(label == said for label in labels)
    assert abs(alike / 6 - float(result.facts["label_agreement"])) < 1e-6
    assert bool((result.weights[0].diff() >= 0).all())
    captions = [f"“{label}”\nat {float(d):.2f}" for label, d in zip(labels, result.weights[0], strict=True)]
    return Drawn(
        pictures(case, result.rows[0], captions),
        f"Of the six training digits nearest in the last hidden layer, nearest first, {alike} are labelled “{said}”, the "
        f"network's answer, and {sum(label == case.truth for label in labels)} “{case.truth}”, the truth.",
    )


ENTRIES = of_cases("neighbours", "Examples", "deep-nearest-neighbours", neighbours, "digits")
