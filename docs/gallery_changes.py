"""Figures of methods that change the input and watch the answer."""

from __future__ import annotations

from gallery_entry import Drawn, explain, of_cases, shares, values
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
    return Drawn(maps(case, values(found)), lead if case.mask is None else f"{lead} {shares(case, found)}")


ENTRIES = (*of_cases("occlusion", "Occlusion and ablation", "occlusion-sensitivity feature-ablation", occlusion),)
