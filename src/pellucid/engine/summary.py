"""What do figures of single rows say about all of them: their mean, how sure it is, and which rows have no figure?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pellucid.engine import seed

DRAWS = 1000
LEVELS = (0.025, 0.975)


def over_rows(values: Tensor, groups: Tensor | None = None, draws: int = DRAWS) -> dict[str, Tensor]:
    """Parts of a `Measure`: ``mean`` (1,), ``interval`` (2,), ``undefined``, the rows that are NaN and left out of both.

    With `groups` (rows,), whole numbers such as classes: ``classes`` (groups,) and ``by_class`` (groups, 3): mean and
    interval of each. Intervals hold 95 % of the means of rows drawn again with replacement, always the same draws, so that
    a measurement without chance stays one. Rows without a figure are left out; where there is none, so is the mean.
    """
    figures = values.detach().cpu().double()
    defined = ~figures.isnan()
    parts = {"undefined": (~defined).nonzero()[:, 0]}
    if not defined.any():
        return parts
    mean, low, high = interval(figures[defined], draws)
    parts |= {"mean": torch.tensor([mean], dtype=torch.float64), "interval": torch.tensor([low, high]).double()}
    if groups is not None:
        own = groups.cpu()
        classes = own[defined].unique()
        parts["classes"] = classes
        found = [interval(figures[defined & (own == c)], draws) for c in classes]
        parts["by_class"] = torch.tensor(found, dtype=torch.float64)
    return parts


def interval(figures: Tensor, draws: int = DRAWS) -> tuple[float, float, float]:
    """The mean and the 95 % interval of means of as many figures drawn with replacement."""
    chance, held = seed.generator(0, b"rows drawn again", 0), figures.numpy()
    means = [held[chance.integers(len(held), size=len(held))].mean() for _ in range(draws)]
    low, high = np.quantile(means, LEVELS)
    return float(held.mean()), float(low), float(high)
