"""Figures of methods that go backwards through the network, or take it apart."""

from __future__ import annotations

from typing import Any

import torch
from gallery_entry import Drawn, explain, of_cases, shares, values
from gallery_panels import Case, correlation, heat, maps
from torch import Tensor

import pellucid as px
from pellucid.evaluation import redrawing


def gradients(case: Case) -> Drawn:
    """Slopes and what comes of them; on rectifiers the second-order method adds nothing."""
    background = case.world.train[0][:64]
    found = {
        "vanilla gradient": explain(case, "vanilla-gradient"),
        "gradient × input": explain(case, "gradient-x-input"),
        "integrated": explain(case, px.attribution.IntegratedGradients(max_steps=4096)),
        "SmoothGrad": explain(case, "smoothgrad"),
        "expected": explain(case, "expected-gradients", data=background),
        "second order": explain(case, "caso-cafo"),
    }
    if case.mask is not None:
        assert float(found["integrated"].facts["relative_gap"]) < 0.01
        bright = case.input[0].mean(0)
        assert bright[~case.mask].mean() > bright[case.mask].mean()
        return Drawn(
            maps(case, values(found)),
            f"{shares(case, found, all_above=False)} Integrated gradients start from a black picture, from which the pale "
            "ground differs more than the object does.",
        )
    gaps = {name: float(found[name].facts["relative_gap"]) for name in ("integrated", "gradient × input")}
    assert gaps["integrated"] < 0.01 < gaps["gradient × input"]
    assert torch.allclose(found["second order"].values, found["vanilla gradient"].values, atol=1e-5)
    return Drawn(
        maps(case, values(found)),
        f"Integrated gradients sum to the score less the empty picture's score within {100 * gaps['integrated']:.1f} %; "
        f"gradient × input misses it by {100 * gaps['gradient × input']:.1f} %. The second-order map equals the plain "
        "gradient: a network of rectifiers has no curvature.",
    )


def rectifiers(case: Case) -> Drawn:
    """Two classes each: guided maps hardly tell them apart."""
    said, other = case.scores(case.input)[0].topk(2).indices.tolist()
    names = {"gradient": "vanilla-gradient", "guided": "guided-backprop", "deconvnet": "deconvnet"}
    found = {
        f"{label}\nof “{case.world.classes[target]}”": explain(case, name, target=target)
        for label, name in names.items()
        for target in (said, other)
    }
    pairs = [heat(result.values) for result in found.values()]
    alike = {label: correlation(*pairs[2 * k : 2 * k + 2]) for k, label in enumerate(names)}
    assert alike["guided"] > 0.5 > abs(alike["gradient"])
    told = ", ".join(f"{label} {r:.2f}" for label, r in alike.items())
    return Drawn(
        maps(case, values(found), case.head().split(". Explained")[0] + ". Explained: its first and second choice"),
        f"Correlation of the maps of two different classes: {told}. The closer to 1, the less a map says about the class.",
    )


def recovery(case: Case) -> Drawn:
    """Maps of the network and of one that has learnt nothing; the guided one shows the picture in both."""
    names = {"gradient": "vanilla-gradient", "guided": "guided-backprop", "deconvnet": "deconvnet"}
    untrained = redrawing.duplicate(case.model)
    for weights in redrawing.layers(untrained).values():
        redrawing.redraw(untrained, weights, "initial", 0, 0)
    said = int(case.scores(case.input).argmax())
    found = {
        f"{whose}\n{label}": px.explain(model, case.input, name, target=said).values
        for whose, model in (("trained:", case.model), ("untrained:", untrained))
        for label, name in names.items()
    }
    digits = case.world.test[0][:100]
    measured = {
        label: px.explain(case.model, digits, px.evaluation.ImageRecovery(of=name, draws=5, attack=0), seed=0)
        for label, name in names.items()
    }
    trained = {label: float(result.values.nanmean()) for label, result in measured.items()}
    drawn = {label: float(result.facts["untrained"].nanmean()) for label, result in measured.items()}
    apart = {label: float(result.facts["class_distance"].nanmean()) for label, result in measured.items()}
    assert min(trained["guided"], drawn["guided"]) > 0.6 > 0.4 > trained["gradient"]
    assert abs(drawn["gradient"]) < 0.1
    assert apart["guided"] < 0.7 < 1.2 < apart["gradient"]

    def told(figures: dict[str, float]) -> str:
        return ", ".join(f"{label} {figure:z.2f}" for label, figure in figures.items())

    return Drawn(
        maps(case, found),
        f"Correlation of map and picture over 100 digits: {told(trained)}; with all weights drawn anew, five times: "
        f"{told(drawn)}. Guided backpropagation shows the picture also where nothing was learnt. Distance between maps of "
        f"different classes, each of length 1: {told(apart)}; 0 is the same map, 1.41 has nothing in common.",
        {"trained": trained, "untrained": drawn, "class_distance": apart},
    )


def relevance(case: Case) -> Drawn:
    """Rules by layer; ε is gradient × input on rectifiers."""
    composite = px.attribution.CompositeLRP
    found = {
        "LRP-ε": explain(case, "lrp-epsilon"),
        "LRP-αβ": explain(case, "lrp-alpha-beta"),
        "LRP-γ": explain(case, "lrp-gamma"),
        "composite:\nε, z⁺": explain(case, composite(composite="epsilon-plus")),
        "composite:\nε, z⁺, flat": explain(case, composite(composite="epsilon-plus-flat")),
        "deep Taylor": explain(case, "deep-taylor-decomposition"),
    }
    if case.mask is not None:
        return Drawn(maps(case, values(found)), shares(case, found))
    product = explain(case, "gradient-x-input").values
    apart = float((found["LRP-ε"].values - product).abs().max() / product.abs().max())
    assert apart < 1e-3
    assert float(found["deep Taylor"].values.min()) >= 0
    total = {label: float(found[label].facts["relevance_sum"]) for label in ("LRP-αβ", "deep Taylor")}
    score = float(found["LRP-ε"].facts["score"])
    assert abs(total["deep Taylor"] - score) < 0.05 * score < abs(total["LRP-αβ"] - score)
    return Drawn(
        maps(case, values(found)),
        "On rectifiers LRP-ε is gradient × input (apart by less than 0.1 % of the largest value). Deep Taylor has no "
        f"negative values and sums to {total['deep Taylor']:.2f} of the score's {score:.2f}; LRP-αβ, where biases take "
        f"part, to {total['LRP-αβ']:.2f}.",
    )


def differences(case: Case) -> Drawn:
    """From a reference to the input: all sum to the difference of the scores."""
    found = {
        "DeepLIFT": explain(case, "deeplift"),
        "RevealCancel": explain(case, "deeplift-revealcancel"),
        "Deep SHAP": explain(case, "deep-shap", data=case.world.train[0][:64]),
        "modified\ngradient": explain(case, "gradient-attribution-unification"),
    }
    worst = max(float(result.facts["relative_gap"]) for result in found.values())
    assert worst < 1e-3
    assert torch.allclose(found["DeepLIFT"].values, found["modified\ngradient"].values, atol=1e-4)
    facts = found["DeepLIFT"].facts
    lead = (
        f"Each map sums to the score less the reference's within 0.1 %: {float(facts['score']):.2f} less "
        f"{float(facts['baseline_score']):.2f} for the empty picture. The modified gradient is DeepLIFT spelt otherwise."
    )
    return Drawn(maps(case, values(found)), lead if case.mask is None else f"{lead} {shares(case, found)}")


def cams(case: Case) -> Drawn:
    """Maps of the last convolution, enlarged."""
    names = {
        "Grad-CAM": "grad-cam",
        "Grad-CAM++": "grad-cam-plus-plus",
        "XGrad-CAM": "xgrad-cam",
        "HiRes-CAM": "hires-cam",
        "Layer-CAM": "layer-cam",
        "guided\nGrad-CAM": "guided-grad-cam",
    }
    names = names if case.mask is None else {"CAM": "cam", **names}
    found = {label: explain(case, name, layer=case.layer) for label, name in names.items()}
    if case.mask is not None:
        same = [found[label].values.clamp(min=0) for label in ("CAM", "Grad-CAM", "XGrad-CAM", "HiRes-CAM")]
        assert min(correlation(same[0], other) for other in same[1:]) > 0.999
        return Drawn(
            maps(case, values(found)),
            "With average pooling and one linear layer behind the maps, CAM, Grad-CAM, XGrad-CAM and HiRes-CAM are one map "
            f"up to a factor (positive parts correlate above 0.999). {shares(case, found)}",
        )
    facts, total = found["HiRes-CAM"].facts, float(found["HiRes-CAM"].values.sum())
    assert abs(total + float(facts["unexplained"]) - float(facts["score"])) < 1e-3
    alike = correlation(found["Grad-CAM"].values, found["HiRes-CAM"].values.clamp(min=0))
    assert alike < 0.9
    return Drawn(
        maps(case, values(found)),
        f"HiRes-CAM sums to {total:.2f} of the score's {float(facts['score']):.2f}. Grad-CAM averages the gradient over "
        f"places, to which this network's dense head gives weights of their own: the two correlate by {alike:.2f} only.",
    )


def decompositions(case: Case) -> Drawn:
    """The network taken apart: the linear piece, groups by themselves, and groups put together."""
    grouped = px.attribution.AgglomerativeDecomposition(features=("patch", 2))
    found = {
        "OpenBox:\nweight × input": explain(case, px.attribution.OpenBox(shown="contribution")),
        "contextual\ndecomposition": explain(case, px.attribution.ContextualDecomposition(features=("patch", 2))),
        "simple Taylor": explain(case, "simple-taylor-decomposition"),
        "bias": explain(case, "bias-backpropagation"),
    }
    tree = explain(case, grouped)
    nodes = tree.source["hierarchy"][0]
    joined = next(node for node in nodes if node["children"])
    drawn = {**values(found), **{f"ACD: {k} groups\nof 16 left": _groups(nodes, k) for k in (13, 9)}}
    box, bias = found["OpenBox:\nweight × input"], found["bias"]
    score = float(box.facts["score"])
    assert abs(float(box.values.sum() + box.facts["bias"]) - score) < 1e-3
    assert abs(float(bias.values.sum() - box.facts["bias"])) < 1e-3
    assert float(tree.facts["root_gap"]) < 1e-4
    parts = [nodes[child]["score"] for child in joined["children"]]
    assert abs(joined["score"] - sum(parts) - joined["interaction"]) < 1e-4
    told = " and ".join(f"{part:.2f}" for part in parts)
    alone = float(found["contextual\ndecomposition"].facts["interaction"])
    return Drawn(
        maps(case, drawn),
        f"OpenBox's map and the bias of its linear piece ({float(box.facts['bias']):.2f}, shared out in the map “bias”) "
        f"sum to the score, {score:.2f}. What no patch has by itself comes to {alone:.2f} in contextual decomposition. The "
        f"first two patches that ACD joins have {told} each by itself and {joined['score']:.2f} together.",
    )


def _groups(nodes: list[dict[str, Any]], count: int) -> Tensor:
    """The patches of an 8×8 digit, each with the score of its group, when `count` groups were left."""
    left = [node for node in nodes if not node["children"]]
    for node in nodes[len(left) :]:
        if len(left) <= count:
            break
        left = [other for other in left if not set(other["features"]) <= set(node["features"])] + [node]
    flat = torch.zeros(16, dtype=torch.float64)
    for node in left:
        flat[node["features"]] = node["score"]
    return flat.view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)


def inside(case: Case) -> Drawn:
    """A hidden layer's part, and a mimic that knows the answers alone."""
    through = explain(case, "conductance", layer=case.layer)
    mimic = explain(case, "explanation-vectors", data=case.world.train[0])
    gap = float(through.facts["relative_gap"])
    assert gap < 0.01
    assert float(mimic.facts["mimic_agrees"]) == 1
    sign = "explanation\nvector, sign turned"
    return Drawn(
        maps(case, {"conductance\nof conv2": through.values, sign: -mimic.values}),
        f"Conductance through the second convolution sums to the difference of the scores within {100 * gap:.1f} %. The "
        "explanation vector asks the network for answers alone; its sign is turned here: red speaks for the answer.",
    )


ENTRIES = (
    *of_cases(
        "gradients",
        "Gradients",
        "vanilla-gradient gradient-x-input integrated-gradients smoothgrad expected-gradients caso-cafo",
        gradients,
    ),
    *of_cases("rectifiers", "Rectifier rules", "guided-backprop deconvnet", rectifiers),
    *of_cases("recovery", "Copies of the picture", "gbp-image-recovery-theory", recovery, "digits"),
    *of_cases(
        "relevance",
        "Relevance",
        "lrp-epsilon lrp-alpha-beta lrp-gamma lrp-composites deep-taylor-decomposition",
        relevance,
    ),
    *of_cases(
        "differences",
        "Differences from a reference",
        "deeplift deeplift-revealcancel deep-shap gradient-attribution-unification",
        differences,
    ),
    *of_cases(
        "cams",
        "Class activation maps",
        "cam grad-cam grad-cam-plus-plus xgrad-cam hires-cam layer-cam guided-grad-cam",
        cams,
    ),
    *of_cases(
        "decompositions",
        "Decompositions",
        "openbox-plnn contextual-decomposition simple-taylor-decomposition bias-backpropagation acd",
        decompositions,
        "digits",
    ),
    *of_cases("inside", "Through a layer, and from answers alone", "conductance explanation-vectors", inside, "digits"),
)
