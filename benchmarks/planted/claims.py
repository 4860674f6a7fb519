"""What is known to go wrong, and must go wrong here too: sentences with the figures they rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Cells = Mapping[str, Mapping[str, Any]]
LIMIT = 0.5  # the similarity above which the randomisation test calls a map unmoved


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A known failure: which cells it needs, whether it shows in their figures, and how it is told."""

    title: str
    needs: tuple[tuple[str, str], ...]
    holds: Callable[[Callable[[str, str, str], dict[str, float]]], bool]
    told: Callable[[Callable[[str, str, str], dict[str, float]]], str]


def figures(cells: Cells) -> Callable[[str, str, str], dict[str, float]]:
    """Looks a figure up: task, method, figure."""
    return lambda task, name, figure: cells[task][name]["figures"][figure]


CLAIMS = (
    Claim(
        title="Guided backpropagation does not notice that the network forgot everything",
        needs=(("weights", "guided-backprop"), ("weights", "vanilla-gradient")),
        holds=lambda f: (
            f("weights", "guided-backprop", "similarity")["low"] > LIMIT
            and abs(f("weights", "vanilla-gradient", "similarity")["mean"]) < LIMIT / 2
        ),
        told=lambda f: (
            "With the weights of the digits network drawn anew, layer by layer from the output, the maps of "
            "guided backpropagation still have the rank correlation "
            f"{_is(f('weights', 'guided-backprop', 'similarity'))} with those of the trained network: above "
            f"{LIMIT}, which fails the test. Those of the gradient, of which it is a variant, have "
            f"{_is(f('weights', 'vanilla-gradient', 'similarity'))}."
        ),
    ),
    Claim(
        title="A gradient is zero where the network is saturated",
        needs=tuple(
            ("columns", name)
            for name in (
                "vanilla-gradient",
                "gradient-x-input",
                "integrated-gradients",
                "feature-ablation",
                "shapley-value",
            )
        ),
        holds=lambda f: (
            all(f("columns", n, "saturated")["mean"] < 1e-6 for n in ("vanilla-gradient", "gradient-x-input"))
            and abs(f("columns", "integrated-gradients", "saturated")["mean"] - 1) < 0.05
            and f("columns", "feature-ablation", "saturated")["mean"] > 0.5
        ),
        told=lambda f: (
            "The column that saturates has a share of the score which the gradient and gradient × input miss "
            f"altogether ({_is(f('columns', 'vanilla-gradient', 'saturated'))} of it). Integrated gradients find "
            f"{_is(f('columns', 'integrated-gradients', 'saturated'))} of it, leaving the column out "
            f"{_is(f('columns', 'feature-ablation', 'saturated'))}, exact Shapley values "
            f"{_is(f('columns', 'shapley-value', 'saturated'))}."
        ),
    ),
    Claim(
        title="LIME is a matter of its draws; exact Shapley values of the same players are not",
        needs=(("seeds", "lime"), ("seeds", "kernel-shap")),
        holds=lambda f: (
            f("seeds", "lime", "spread")["low"] > 0.01 and f("seeds", "kernel-shap", "spread")["mean"] < 1e-6
        ),
        told=lambda f: (
            f"With other seeds, LIME's values on the loans move by {_is(f('seeds', 'lime', 'spread'))} of their "
            f"size, and its three foremost columns agree by {_is(f('seeds', 'lime', 'agreement'))} (Jaccard "
            "index). Kernel SHAP, which takes all coalitions of eleven columns, moves by "
            f"{_is(f('seeds', 'kernel-shap', 'spread'))}."
        ),
    ),
    Claim(
        title="Edges are found without looking at the network",
        needs=(("objects", "edge-detector"), ("cues", "edge-detector"), ("weights", "edge-detector")),
        holds=lambda f: (
            f("objects", "edge-detector", "pointing").get("against chance") == "above"
            and f("weights", "edge-detector", "similarity")["mean"] > 1 - 1e-6
        ),
        told=lambda f: (
            "A filter that never asks the network points at the object in "
            f"{_is(f('objects', 'edge-detector', 'pointing'))} of the pictures, better than chance: localisation "
            "alone does not show that an explanation is the network's. At the tag, which the second network goes "
            f"by, it points in {_is(f('cues', 'edge-detector', 'pointing'))}."
        ),
    ),
)


def _is(found: Mapping[str, Any]) -> str:
    half = (found["high"] - found["low"]) / 2 if found.get("high") is not None else None
    return f"{found['mean']:.2f}" + ("" if half is None else f" ± {half:.2f}")
