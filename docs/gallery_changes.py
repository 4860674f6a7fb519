"""Figures of methods that change the input and watch the answer."""

from __future__ import annotations

import math

from gallery_entry import Drawn, explain, of_cases, planes, shares
from gallery_panels import Case, maps

import pellucid as px


def occlusion(case: Case) -> Drawn:
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
    return Drawn(maps(case, planes(found)), lead if case.mask is None else f"{lead} {shares(case, found)}")


def parts(case: Case) -> Drawn:
    """Patches or superpixels switched off together: a line through the answers, and each part's share."""
    spec = ("patch", 2) if case.mask is None else ("superpixels", 24)
    found = {
        "LIME": explain(case, px.attribution.Lime(features=spec, samples=2000)),
        "Kernel SHAP": explain(case, px.attribution.KernelShap(features=spec, samples=2000)),
        "sampled\nShapley values": explain(case, px.attribution.ShapleySampling(features=spec, walks=64)),
    }
    worst = {label: float(result.error.max()) for label, result in found.items()}
    apart = found["Kernel SHAP"].values - found["sampled\nShapley values"].values
    spread = (found["Kernel SHAP"].error ** 2 + found["sampled\nShapley values"].error ** 2).sqrt()
    assert bool((apart.abs() <= 4 * spread + 1e-6).all())
    facts, fit = found["Kernel SHAP"].facts, found["LIME"].facts
    whole = float(facts["score"] - facts["baseline_score"])
    assert float(facts["completeness_gap"]) < 1e-6
    told = ", ".join(f"{label} {error:.2f}".replace("\n", " ") for label, error in worst.items())
    lead = (
        f"Kernel SHAP and sampled Shapley values, which sum to the score less the black picture's ({whole:.2f}), agree "
        f"within four standard errors everywhere. Largest standard errors: {told}. LIME's line explains "
        f"{100 * float(fit['r_squared']):.0f} % of the variance of the answers nearby and need not sum to anything."
    )
    if case.mask is not None:
        return Drawn(maps(case, planes(found)), f"{lead} {shares(case, found)}")
    exact = found["exact\nShapley values"] = explain(case, px.attribution.ShapleyValue(features=spec))
    off = {k: (found[k].values - exact.values).abs() for k in ("Kernel SHAP", "sampled\nShapley values")}
    assert all(bool((off[k] <= 4 * found[k].error + 1e-5).all()) for k in off)
    asked = f"{int(facts['forwards'])} questions, {int(exact.facts['forwards']):,} for the exact values"
    return Drawn(
        maps(case, planes(found)),
        f"{lead} Both lie within four of the exact values: Kernel SHAP with {asked}.",
    )


def prediction_differences(case: Case) -> Drawn:
    """What seeing a window is worth, against what could stand there."""
    data = case.world.train[0][:500]
    window, side, few = (2, 2, 200) if case.mask is None else (4, 4, 60)
    analysis = px.attribution.PredictionDifferenceAnalysis
    settings = {"window": window, "stride": 1 + window // 4, "samples": 20, "laplace": False}
    method = px.attribution.PredictionDecomposition(features=("patch", side), laplace=False)
    found = {
        "windows drawn\nfrom what is around": explain(case, analysis(**settings), data=data),
        "windows of\nother pictures": explain(case, analysis(sampler="marginal", **settings), data=data),
        f"{side}×{side} patches of\nother pictures": explain(case, method, data=data[:few]),
    }
    result = found[f"{side}×{side} patches of\nother pictures"]
    at = int(result.values[0, 0].argmax())
    line, column = (k // side * side for k in divmod(at, case.input.shape[-1]))
    changed = case.input.repeat(few, 1, 1, 1)
    here = (..., slice(line, line + side), slice(column, column + side))
    changed[here] = data[:few][here]
    said = int(case.scores(case.input).argmax())
    seen, without = (float(case.scores(x).double().softmax(1)[:, said].mean()) for x in (case.input, changed))
    bits = math.log2(seen / (1 - seen)) - math.log2(without / (1 - without))
    assert abs(bits - float(result.values.max())) < 0.01
    spread = [float(drawn.facts["standard_error"]) for drawn in list(found.values())[:2]]
    lead = (
        f"The reddest patch, filled by hand with those of {few} other pictures, takes the probability from {seen:.3f} to "
        f"{without:.3f} on average: {bits:.2f} bits of evidence, as the last map says. The first two maps' standard errors "
        f"are {spread[0]:.2f} and {spread[1]:.2f} bits."
    )
    head = case.head().replace("the score of", "the probability of")
    figure = maps(case, planes(found), head, unit=" bits")
    return Drawn(figure, lead if case.mask is None else f"{lead} {shares(case, found)}")


def disturbances(case: Case) -> Drawn:
    """How far the answer moves, without a sign; a small shift moves it by the slope."""
    analysis = px.attribution.SensitivityAnalysis
    spec = "pixel" if case.mask is None else ("patch", 4)
    data = case.world.train[0][:200]
    noise = explain(case, analysis(features=spec, samples=32))
    other = explain(case, analysis(disturbance="resample", distance="kl", features=spec, samples=32), data=data)
    shift = explain(case, analysis(disturbance="shift", size=1e-3, features=spec))
    found = {"noise:\nscore": noise, "other rows' values:\nall classes (bits)": other, "small shift:\nscore": shift}
    slope = explain(case, "vanilla-gradient").values.double()
    if case.mask is None:
        step = 1e-3 * float(case.input.max() - case.input.min())
        apart = float((shift.values.double() - step * slope.abs()).abs().max() / (step * slope.abs().max()))
        assert apart < 0.05
        lead = (
            f"On every pixel a small shift moves the score by the size of the slope there, within {100 * apart:.1f} %."
        )
    else:
        spread, most = float(noise.error.max()), float(noise.values.max())
        assert spread < 0.25 * most
        lead = (
            "Sizes alone: they say where the answer hangs on the picture, and not which way. The largest standard error of "
            f"the first map is {spread:.2f}, {100 * spread / most:.0f} % of its largest value."
        )
    figure = maps(case, planes(found), case.head().split(". Explained")[0], signed=False)
    return Drawn(figure, lead if case.mask is None else f"{lead} {shares(case, found)}")


ENTRIES = (
    *of_cases("occlusion", "Occlusion and ablation", "occlusion-sensitivity feature-ablation", occlusion),
    *of_cases(
        "parts", "Parts of a picture switched off together", "lime kernel-shap shapley-sampling shapley-value", parts
    ),
    *of_cases(
        "prediction",
        "Prediction differences",
        "prediction-difference-analysis prediction-decomposition",
        prediction_differences,
    ),
    *of_cases("disturbances", "Disturbances", "sensitivity-analysis", disturbances),
)
