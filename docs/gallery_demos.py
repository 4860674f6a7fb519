"""Demonstrations whose answer is planted: what is found is held against it while the figure is made."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from gallery_entry import Drawn, entry

from pellucid.report import Growth, trend

DOUBLING, STARTED, YEARS = 2.0, 3.0, range(2006, 2019)


def literature() -> Drawn:
    """An export of simulated publications: one subject that doubles every two years, and one that stays as it is."""
    chance = torch.Generator().manual_seed(0)
    counts = {
        "saliency maps": torch.poisson(
            torch.tensor([STARTED * 2 ** ((year - 2006) / DOUBLING) for year in YEARS]), generator=chance
        ),
        "decision trees": torch.poisson(torch.full((len(YEARS),), 20.0), generator=chance),
    }
    records = [
        f"@article{{{subject[0]}{year}{k}, title = {{On {subject}}}, year = {year}}}"
        for subject, by_year in counts.items()
        for year, count in zip(YEARS, by_year.tolist(), strict=True)
        for k in range(int(count))
    ]
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder, "export.bib")
        export.write_text("\n".join(records), encoding="utf-8")
        found = trend(export, {"saliency": '"saliency map*"', "decision trees": '"decision trees"'})
    assert list(found.counts["saliency"]) == counts["saliency maps"].int().tolist()
    assert list(found.counts["decision trees"]) == counts["decision trees"].int().tolist()
    grown, flat = found.fits["saliency"], found.fits["decision trees"]
    assert isinstance(grown, Growth)
    assert isinstance(flat, Growth)
    assert grown.low <= math.log(2) / DOUBLING <= grown.high
    assert flat.low <= 0 <= flat.high
    low, high = grown.doubling_interval or (0.0, 0.0)
    sentence = (
        f"A simulated export of {found.records} publications, counted without a miss. One subject was planted to double "
        f"every {DOUBLING:.0f} years: found are {grown.doubling:.2f}, with {low:.2f} to {high:.2f} at 95 %. Of the other, "
        "planted without growth, none is claimed."
    )
    return Drawn(found.show(), sentence, {"doubling": grown.doubling, "low": low, "high": high})


ENTRIES = (*entry("literature", "Growth of a literature", "", literature),)
