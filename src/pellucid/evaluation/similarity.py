"""How alike are two maps? Rank correlation, structural similarity, and the correlation of histograms of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.contract import tensors
from pellucid.engine.ranks import pearson, rank_correlation

__all__: list[str] = []

CELLS = 14  # histograms of gradients over this many cells along the shorter side, where the image is large enough
NAMES = ("rank_signed", "rank_absolute", "ssim", "hog")


def compare(first: Any, second: Any) -> dict[str, Tensor]:
    """Every similarity of two attributions' values by name, (rows,) in float64; NaN where one isn't defined.

    Channels of images are summed first, as they are for the signed comparison and by size for the others.
    """
    one, two = tensors(first), tensors(second)
    signed = [torch.cat([_places(v, False).flatten(1) for v in side], 1) for side in (one, two)]
    sized = [torch.cat([_places(v, True).flatten(1) for v in side], 1) for side in (one, two)]
    found = {"rank_signed": rank_correlation(*signed), "rank_absolute": rank_correlation(*sized)}
    if len(one) == 1 and one[0].dim() == 4:
        pictures = [_unit(_places(side[0], True)) for side in (one, two)]
        found |= {"ssim": structural_similarity(*pictures), "hog": hog_correlation(*pictures)}
    return found


def _places(values: Tensor, sized: bool) -> Tensor:
    """One figure per place, on the processor, in float64 and free of rounding."""
    here = steady(values)
    here = here.abs() if sized else here
    return here.sum(1) if here.dim() == 4 else here


def steady(values: Tensor) -> Tensor:
    """Float64 values rounded to a share of each row's largest that is well above the noise of their type.

    Ranks would otherwise tell values apart that only the order of summation does.
    """
    fine = 2.0**-34 if values.dtype == torch.float64 else 2.0**-16
    here = values.detach().cpu().double()
    step = here.abs().flatten(1).amax(1).reshape(-1, *[1] * (here.dim() - 1)) * fine
    step = torch.where(step > 0, step, 1.0)
    return (here / step).round() * step


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of pictures (rows, height, width) from 0 to 1, over windows of 7 × 7 or as large as they fit."""
    from skimage.metrics import structural_similarity as ssim

    side = min(7, *first.shape[1:])
    window = side if side % 2 else side - 1
    if window < 3:
        return torch.full((len(first),), torch.nan, dtype=torch.float64)
    pairs = zip(first.numpy(), second.numpy(), strict=True)
    return torch.tensor([ssim(a, b, win_size=window, data_range=1.0) for a, b in pairs], dtype=torch.float64)


def hog_correlation(first: Tensor, second: Tensor) -> Tensor:
    """The correlation of two pictures' histograms of gradients; NaN where fewer than three cells fit along a side."""
    from skimage.feature import hog

    side = min(first.shape[1:])
    cell = max(2, side // CELLS)
    if side // cell < 3:
        return torch.full((len(first),), torch.nan, dtype=torch.float64)
    told = [
        torch.stack([torch.from_numpy(hog(picture, pixels_per_cell=(cell, cell))) for picture in side_.numpy()])
        for side_ in (first, second)
    ]
    return pearson(*told)


def _unit(pictures: Tensor) -> Tensor:
    """Each picture from 0 to 1; one without any contrast is 0."""
    flat = pictures.flatten(1)
    low, high = (edge[:, None, None] for edge in (flat.amin(1), flat.amax(1)))
    return (pictures - low) / torch.where(high > low, high - low, 1.0)
