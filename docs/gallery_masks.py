"""Figures of masks that are learnt for a picture, and of bottlenecks: sizes without a sign."""

from __future__ import annotations

import torch
from gallery_entry import Drawn, explain, of_cases, shares, values
from gallery_panels import Case, maps

import pellucid as px


def masks(case: Case) -> Drawn:
    """The region whose deletion takes the class, and the one that keeps it alone."""
    game = px.attribution.MeaningfulPerturbation
    settings = {"power": 1.0, "smoothness": 0.05, "area": 0.5, "steps": 150}
    found = {
        "deleted": explain(case, game(game="deletion", **settings)),
        "kept alone": explain(case, game(game="preservation", **settings)),
    }
    deleted, kept = ({name: float(fact) for name, fact in found[k].facts.items()} for k in ("deleted", "kept alone"))
    assert deleted["masked_score"] < 0.1 < 0.9 < kept["masked_score"]
    cut = {k: (result.values > 0.5).to(result.values) for k, result in found.items()}
    drawn = {
        **values(found),
        "deleted, cut\nat one half": cut["deleted"],
        "kept alone, cut\nat one half": cut["kept alone"],
    }
    lead = (
        f"Blurring the first region takes the probability from {deleted['score']:.2f} to {deleted['masked_score']:.2f}; "
        f"the second one alone, {100 * kept['area']:.0f} % of the picture, has {kept['masked_score']:.2f}. "
    )
    if deleted["binary_score"] > 0.5:
        lead += (
            f"Cut to black and white the first deletes {100 * deleted['binary_area']:.0f} % and leaves "
            f"{deleted['binary_score']:.2f}: it works in shades of grey alone, an artefact that only the "
            f"cut mask gives away. The second keeps {kept['binary_score']:.2f} with {100 * kept['binary_area']:.0f} %."
        )
    else:
        assert kept["binary_score"] > 0.9
        lead += (
            f"Cut to black and white they do the same: {deleted['binary_score']:.2f} without "
            f"{100 * deleted['binary_area']:.0f} % of the picture, {kept['binary_score']:.2f} with "
            f"{100 * kept['binary_area']:.0f} %."
        )
    head = case.head().replace("the score of", "the probability of")
    return Drawn(maps(case, drawn, head, signed=False), lead if case.mask is None else f"{lead} {shares(case, found)}")


def bottleneck(case: Case) -> Drawn:
    """How many bits the network needs from each place, at three prices."""
    data, layer = case.world.train[0][:500], "conv2" if case.mask is None else "block2"
    prices = (0.1, 1, 10)
    method = px.attribution.InformationBottleneck
    found = {f"price {beta:g}": explain(case, method(beta=float(beta)), layer=layer, data=data) for beta in prices}
    bits = [float(result.facts["bits"]) for result in found.values()]
    losses = [float(result.facts["cross_entropy"]) for result in found.values()]
    assert bits == sorted(bits, reverse=True)
    told = ", ".join(f"{b:.0f} bits ({loss:.2f} nats)" for b, loss in zip(bits, losses, strict=True))
    own = float(next(iter(found.values())).facts["model_cross_entropy"])
    lead = (
        f"The dearer a bit, the fewer pass {layer}, and the more the answer costs (the cross-entropy, {own:.2f} nats "
        f"without a bottleneck): {told}."
    )
    figure = maps(case, values(found), signed=False, unit=" bits")
    return Drawn(figure, lead if case.mask is None else f"{lead} {shares(case, found)}")


def read_out(case: Case) -> Drawn:
    """Masks fitted to this picture, and masks read for it by networks that learnt on others."""
    data, layer = case.world.train[0][:500], "conv2" if case.mask is None else "block2"
    deeper = "hidden" if case.mask is None else "block3"
    method = px.attribution.ReadOutBottleneck
    asked = {"layer": layer, "data": data}
    settings = {"steps": 150, "rate": 0.02, "repeats": 1}
    found = {
        "fitted to\nthe picture": explain(case, px.attribution.InformationBottleneck(steps=40), **asked),
        f"read out\nof {layer}": explain(case, method(**settings), **asked),
        f"read out of\n{layer} and {deeper}": explain(case, method(read=(deeper,), **settings), **asked),
    }
    told = ", ".join(
        f"{name.replace(chr(10), ' ')} {float(r.facts['bits']):.0f} bits ({float(r.facts['cross_entropy']):.2f} nats)"
        for name, r in found.items()
    )
    losses = [float(result.facts["cross_entropy"]) for result in found.values()]
    assert losses[0] == min(losses)
    lead = (
        f"Masks that were learnt from other pictures point to the same region in one pass, but keep less of the answer "
        f"than the one fitted to this picture. Bits that pass {layer}, and the cross-entropy behind: {told}."
    )
    fitted, *others = (result.values.double().flatten() for result in found.values())
    assert all(float(torch.corrcoef(torch.stack([fitted, other]))[0, 1]) > 0.5 for other in others)
    figure = maps(case, values(found), signed=False, unit=" bits")
    return Drawn(figure, lead if case.mask is None else f"{lead} {shares(case, found)}")


ENTRIES = (
    *of_cases("masks", "Learnt masks", "meaningful-perturbation", masks),
    *of_cases("bottleneck", "Information bottleneck", "information-bottleneck-attribution", bottleneck),
    *of_cases("readout", "A read-out for the bottleneck", "read-out-bottleneck", read_out),
)
