"""The gallery: one figure for each family of methods, each with a sentence that is checked before it is written.

`make gallery` writes docs/gallery/index.md and docs/figures/gallery/*.png. It needs the two networks of the zoo, which
are trained on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gallery_panels import Case, as_png, case_of, correlation, heat, maps, pictures, positive_share
from matplotlib.figure import Figure
from torch import Tensor

import pellucid as px

ROOT = Path(__file__).parent
Found = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One figure: the methods it shows, how it is drawn and the sentence under it, as (figure, sentence)."""

    name: str
    title: str
    methods: tuple[str, ...]
    make: Callable[[], tuple[Figure, str]]


def explain(case: Case, method: Any, **settings: Any) -> Any:
    """One method's result on the case, from the same seed each time."""
    return px.explain(case.model, case.input, method, seed=0, **settings)


def values(found: Found) -> dict[str, Tensor]:
    """The maps of several results."""
    return {label: result.values for label, result in found.items()}


def shares(case: Case, found: Found, all_above: bool = True) -> str:
    """How much of each map's positive values lies on the planted object, against the share of the picture it covers."""
    area = float(case.mask.double().mean())
    part = {label: positive_share(result.values, case.mask) for label, result in found.items()}
    told = ", ".join(f"{label} {100 * share:.0f} %".replace("\n", " ") for label, share in part.items())
    below = [label.replace("\n", " ") for label, share in part.items() if share <= area]
    assert not (below and all_above), below
    said = "Every map is above that." if not below else f"Not above that: {', '.join(below)}."
    return (
        f"The outlined object covers {100 * area:.0f} % of the picture; of the positive values, there lie on it: "
        f"{told}. {said}"
    )


def gradients(case: Case) -> tuple[Figure, str]:
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
        return maps(case, values(found)), (
            f"{shares(case, found, all_above=False)} Integrated gradients start from a black picture, from which the pale "
            "ground differs more than the object does."
        )
    gaps = {name: float(found[name].facts["relative_gap"]) for name in ("integrated", "gradient × input")}
    assert gaps["integrated"] < 0.01 < gaps["gradient × input"]
    assert torch.allclose(found["second order"].values, found["vanilla gradient"].values, atol=1e-5)
    return maps(case, values(found)), (
        f"Integrated gradients sum to the score less the empty picture's score within {100 * gaps['integrated']:.1f} %; "
        f"gradient × input misses it by {100 * gaps['gradient × input']:.1f} %. The second-order map equals the plain "
        "gradient: a network of rectifiers has no curvature."
    )


def rectifiers(case: Case) -> tuple[Figure, str]:
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
    return maps(
        case, values(found), case.head().split(". Explained")[0] + ". Explained: its first and second choice"
    ), (
        f"Correlation of the maps of two different classes: {told}. The closer to 1, the less a map says about the class."
    )


def relevance(case: Case) -> tuple[Figure, str]:
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
        return maps(case, values(found)), shares(case, found)
    product = explain(case, "gradient-x-input").values
    apart = float((found["LRP-ε"].values - product).abs().max() / product.abs().max())
    assert apart < 1e-3
    assert float(found["deep Taylor"].values.min()) >= 0
    total = {label: float(found[label].facts["relevance_sum"]) for label in ("LRP-αβ", "deep Taylor")}
    score = float(found["LRP-ε"].facts["score"])
    assert abs(total["deep Taylor"] - score) < 0.05 * score < abs(total["LRP-αβ"] - score)
    return maps(case, values(found)), (
        "On rectifiers LRP-ε is gradient × input (apart by less than 0.1 % of the largest value). Deep Taylor has no "
        f"negative values and sums to {total['deep Taylor']:.2f} of the score's {score:.2f}; LRP-αβ, where biases take "
        f"part, to {total['LRP-αβ']:.2f}."
    )


def differences(case: Case) -> tuple[Figure, str]:
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
    return maps(case, values(found)), lead if case.mask is None else f"{lead} {shares(case, found)}"


def cams(case: Case) -> tuple[Figure, str]:
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
        return maps(case, values(found)), (
            "With average pooling and one linear layer behind the maps, CAM, Grad-CAM, XGrad-CAM and HiRes-CAM are one map "
            f"up to a factor (positive parts correlate above 0.999). {shares(case, found)}"
        )
    facts, total = found["HiRes-CAM"].facts, float(found["HiRes-CAM"].values.sum())
    assert abs(total + float(facts["unexplained"]) - float(facts["score"])) < 1e-3
    alike = correlation(found["Grad-CAM"].values, found["HiRes-CAM"].values.clamp(min=0))
    assert alike < 0.9
    return maps(case, values(found)), (
        f"HiRes-CAM sums to {total:.2f} of the score's {float(facts['score']):.2f}. Grad-CAM averages the gradient over "
        f"places, to which this network's dense head gives weights of their own: the two correlate by {alike:.2f} only."
    )


def occlusion(case: Case) -> tuple[Figure, str]:
    """Pixels and windows set to black; the strongest one is tried again by hand."""
    window, ablation = px.attribution.Occlusion, px.attribution.FeatureAblation
    sizes = (1, 2, 3) if case.mask is None else (4, 8)
    found = {f"occlusion,\nwindow {k}": explain(case, window(window=k, stride=1 + k // 4)) for k in sizes}
    patch = 2 if case.mask is None else 4
    found[f"ablation,\n{patch}×{patch} patches"] = explain(case, ablation(features=("patch", patch)))
    result = found[f"ablation,\n{patch}×{patch} patches"]
    line, column = divmod(int(result.values[0, 0].argmax()), case.input.shape[-1])
    line, column = line // patch * patch, column // patch * patch
    changed = case.input.clone()
    changed[..., line : line + patch, column : column + patch] = 0
    said = int(case.scores(case.input).argmax())
    drop = float(case.scores(case.input)[0, said] - case.scores(changed)[0, said])
    assert abs(drop - float(result.facts["largest_drop"])) < 1e-3
    lead = (
        f"Blackening the reddest patch of {patch} × {patch} pixels by hand lowers the score by {drop:.2f}, as it says."
    )
    return maps(case, values(found)), lead if case.mask is None else f"{lead} {shares(case, found)}"


def decompositions(case: Case) -> tuple[Figure, str]:
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
    return maps(case, drawn), (
        f"OpenBox's map and the bias of its linear piece ({float(box.facts['bias']):.2f}, shared out in the map “bias”) "
        f"sum to the score, {score:.2f}. What no patch has by itself comes to {alone:.2f} in contextual decomposition. The "
        f"first two patches that ACD joins have {told} each by itself and {joined['score']:.2f} together."
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


def inside(case: Case) -> tuple[Figure, str]:
    """A hidden layer's part, and a mimic that knows the answers alone."""
    through = explain(case, "conductance", layer=case.layer)
    mimic = explain(case, "explanation-vectors", data=case.world.train[0])
    gap = float(through.facts["relative_gap"])
    assert gap < 0.01
    assert float(mimic.facts["mimic_agrees"]) == 1
    sign = "explanation\nvector, sign turned"
    return maps(case, {"conductance\nof conv2": through.values, sign: -mimic.values}), (
        f"Conductance through the second convolution sums to the difference of the scores within {100 * gap:.1f} %. The "
        "explanation vector asks the network for answers alone; its sign is turned here, so that red speaks for the answer."
    )


def neighbours(case: Case) -> tuple[Figure, str]:
    """The training digits that the network represents most like this one."""
    result = explain(case, px.examples.DeepNearestNeighbours(neighbours=6), data=case.world)
    labels = result.labels[0].tolist()
    said = int(case.scores(case.input).argmax())
    alike = sum(label == said for label in labels)
    assert abs(alike / 6 - float(result.facts["label_agreement"])) < 1e-6
    assert bool((result.weights[0].diff() >= 0).all())
    captions = [f"“{label}”\nat {float(d):.2f}" for label, d in zip(labels, result.weights[0], strict=True)]
    return pictures(case, result.rows[0], captions), (
        f"Of the six training digits nearest in the last hidden layer, nearest first, {alike} are labelled “{said}”, the "
        f"network's answer, and {sum(label == case.truth for label in labels)} “{case.truth}”, the truth."
    )


def tree() -> tuple[Figure, str]:
    """The iris network imitated by thresholds."""
    world, model = px.zoo.data("iris-mlp"), px.zoo.load("iris-mlp")
    # The network reads standardised columns; the tree is to speak of centimetres.
    subject = px.Subject(lambda rows: model(world.standardised(rows)), classes=world.classes, features=world.features)
    flowers, known = (world.original(rows).float() for rows in (world.test[0], world.train[0]))
    result = px.explain(subject, flowers, px.rules.CartSurrogate(max_depth=3), data=known)
    agrees = float(result.facts["agrees"].double().mean())
    assert agrees >= 0.85
    return result.show(), (
        f"On the {len(world.test[0])} held-out flowers, which it has not seen, the tree gives the network's answer for "
        f"{100 * agrees:.0f} %; the figure in the title is measured on a share of the training flowers kept from the tree."
    )


LEFT_OUT = {
    "Objects and disturbances (o-drl-object-saliency, sensitivity-analysis)": "figure to come",
    "Windows filled with what could stand there (prediction-difference-analysis)": "figure to come",
    "Localisation (pointing-game)": "figure to come",
    "Prediction differences (prediction-decomposition)": "figure to come",
    "Surrogates (lime, sp-lime, streak)": "figure to come",
    "Effects of columns (pdp, ice, accumulated-local-effects, sobol-indices, functional-anova, "
    "generalized-functional-anova, fanova-forest)": "figure to come",
    "Attention (attention-weight-heatmap, attention-rollout, generic-attention-relevance, "
    "attention-relevance-propagation)": (
        "the zoo has no trained transformer, and the attention of an untrained one shows nothing about a decision"
    ),
    "Score maps (weakly-supervised-localization)": "figure to come",
    "Shapley values (shapley-value, shapley-sampling, kernel-shap, qii)": "figure to come",
    "Reconstructions (registration-reconstruction-explanation)": "figure to come",
    "Fisher vectors (lrp-fisher-vectors)": "figure to come",
    "Words and sequences (lrp-lstm, lrp-text-cnn, lrp-nmt, lrp-document-relevance, murdoch-szlam-lstm-decomposition, "
    "omission-score, word-gradient-saliency, representation-erasure, representation-erasure-rl)": "figure to come",
    "Learnt masks (meaningful-perturbation, real-time-image-saliency, gnnexplainer)": "figure to come",
    "Information (information-bottleneck-attribution, l2x, information-based-measure-nlp)": "figure to come",
}


def entries() -> list[Entry]:
    """Every figure, in the order of the page; a case is made when its first figure is."""
    found: list[Entry] = []
    for make, name, title, methods in FAMILIES:
        kept = tuple(methods.split())
        for case in ("digits", "shapes") if make not in DIGITS_ALONE else ("digits",):
            found.append(Entry(f"{name}-{case}", title, kept, lambda make=make, case=case: make(case_of(case))))
    found.append(Entry("neighbours", "Examples", ("deep-nearest-neighbours",), lambda: neighbours(case_of("digits"))))
    found.append(Entry("tree", "Rules", ("cart-c45-surrogate",), tree))
    return found


FAMILIES = (
    (
        gradients,
        "gradients",
        "Gradients",
        "vanilla-gradient gradient-x-input integrated-gradients smoothgrad expected-gradients caso-cafo",
    ),
    (rectifiers, "rectifiers", "Rectifier rules", "guided-backprop deconvnet"),
    (
        relevance,
        "relevance",
        "Relevance",
        "lrp-epsilon lrp-alpha-beta lrp-gamma lrp-composites deep-taylor-decomposition",
    ),
    (
        differences,
        "differences",
        "Differences from a reference",
        "deeplift deeplift-revealcancel deep-shap gradient-attribution-unification",
    ),
    (
        cams,
        "cams",
        "Class activation maps",
        "cam grad-cam grad-cam-plus-plus xgrad-cam hires-cam layer-cam guided-grad-cam",
    ),
    (occlusion, "occlusion", "Occlusion and ablation", "occlusion-sensitivity feature-ablation"),
    (
        decompositions,
        "decompositions",
        "Decompositions",
        "openbox-plnn contextual-decomposition simple-taylor-decomposition bias-backpropagation acd",
    ),
    (inside, "inside", "Through a layer, and from answers alone", "conductance explanation-vectors"),
)
DIGITS_ALONE = (decompositions, inside)

INTRO = """# Gallery

One figure for each family of methods: a digit that the network misreads and, for most, a picture of planted shapes, whose
pixels are known. Red raises the explained score, blue lowers it, and zero is always the neutral middle; where a map
shows slopes, red says that a brighter pixel would raise the score. Each map has limits of its own, written under it, at the
99th percentile of its sizes. Maps coarser than the picture are enlarged. The dark line is the outline of the object whose
kind is the right answer. The sentence under each figure is computed from what is drawn and checked before it is written;
`make gallery` makes the page anew.
"""


def write(root: Path = ROOT) -> list[Path]:
    """Write every figure and the page; each figure's claims are asserted on the way."""
    folder = root / "figures" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    lines, heading, written = [INTRO], "", []
    for entry in entries():
        figure, sentence = entry.make()
        path = folder / f"{entry.name}.png"
        path.write_bytes(as_png(figure))
        written.append(path)
        if entry.title != heading:
            heading = entry.title
            links = ", ".join(f"[{px.catalogue.card(m).title}](../methods/{m}.md)" for m in entry.methods)
            lines += [f"## {heading}\n", f"{links}\n"]
        lines += [
            f"![{entry.title}, {entry.name.rpartition('-')[2]}](../figures/gallery/{path.name})\n",
            f"{sentence}\n",
        ]
    lines += ["## Not drawn\n", *(f"- {name}: {reason}." for name, reason in LEFT_OUT.items())]
    page = root / "gallery" / "index.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*written, page]


if __name__ == "__main__":
    for path in write():
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
