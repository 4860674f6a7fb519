"""Why is this region labelled so? Targets for networks that label every pixel or voxel, and how far context reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, TargetError

__all__ = ["Region", "by_distance"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Why does the network label this region so? A target for outputs (rows, classes, height, width), or with depth.

    The score is the sum over the region's places of the output for ``label``; with ``against``, minus the output for that
    class: what makes these places one class rather than another. Any attribution takes it as ``target=``; with Grad-CAM
    it is Seg-Grad-CAM. The region is one of:

    - ``mask``, a boolean tensor (height, width) that holds for every row;
    - ``point``, one place;
    - ``point`` with ``component=True``, the places joined to it by faces that the network labels like it;
    - nothing: every place that the network labels so.

    The last two are read from each output by itself. So a method that changes the input may change them too; to hold one
    fixed, give its places as ``mask=region.places(output)[0]``.

    Args:
        label: the class explained.
        point: position in the output's axes after the classes.
        component: the whole connected component around ``point``.
        mask: the places, for every row.
        against: the class to tell it from.

    Source: Vinogradova, Dibrov & Myers 2020, equation 2.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
        >>> centre = Region(label=1, point=(2, 2))
        >>> result = px.explain(net, torch.ones(1, 1, 5, 5), "vanilla-gradient", target=centre)
        >>> torch.equal(result.values[0, 0, 1:4, 1:4], net.weight[1, 0])
        True
    """

    label: int
    point: tuple[int, ...] | None = None
    component: bool = False
    mask: Tensor | None = field(default=None, repr=False)
    against: int | None = None

    def __call__(self, output: Tensor) -> Tensor:
        """One number per row."""
        self._check(output)
        found = output[:, self.label]
        if self.against is not None:
            found = found - output[:, self.against]
        return torch.where(self.places(output), found, 0.0).flatten(1).sum(1)

    def places(self, output: Tensor) -> Tensor:
        """Where the region lies in each row, (rows, height, width)."""
        self._check(output)
        shape = (output.shape[0], *output.shape[2:])
        if self.mask is not None:
            return self.mask.to(output.device).expand(shape)
        if self.point is not None and not self.component:
            one = torch.zeros(shape[1:], dtype=torch.bool, device=output.device)
            one[self.point] = True
            return one.expand(shape)
        labelled = output.detach().argmax(1) == self.label
        return labelled if self.point is None else _joined(labelled, self.point, self.label)

    def _check(self, output: Tensor) -> None:
        classes, space = (output.shape[1] if output.dim() > 1 else 0), tuple(output.shape[2:])
        if not space:
            raise TargetError(
                "A Region is for an output (rows, classes, height, width)",
                got=f"shape {tuple(output.shape)}",
                hint="target= the class number",
            )
        for name, number in (("label", self.label), ("against", self.against)):
            if number is not None and not -classes <= number < classes:
                raise TargetError(f"The '{name}' of a Region must be from 0 to {classes - 1}", got=str(number))
        if self.mask is not None and (self.point is not None or self.component):
            raise TargetError("A Region must have a 'mask' or a 'point', and not both", got=repr(self))
        if self.mask is not None and (self.mask.dtype != torch.bool or tuple(self.mask.shape) != space):
            got = f"{self.mask.dtype} of shape {tuple(self.mask.shape)}"
            raise TargetError(f"The 'mask' of a Region must be a boolean tensor of shape {space}", got=got)
        if self.component and self.point is None:
            raise TargetError("A Region with 'component' must have a 'point' in it", got="point=None")
        if self.point is None:
            return
        if len(self.point) != len(space) or not all(0 <= p < n for p, n in zip(self.point, space, strict=True)):
            raise TargetError(f"The 'point' of a Region must lie inside {space}", got=str(self.point))


def _joined(labelled: Tensor, point: tuple[int, ...], label: int) -> Tensor:
    """The connected component of each row that holds the point."""
    from scipy import ndimage

    found = []
    for row, place in enumerate(labelled.cpu().numpy()):
        if not place[point]:
            raise TargetError(
                f"The 'point' {point} of a Region must be labelled {label} by the network, for its component to be one",
                got=f"another label in row {row}",
                hint="component=False, or mask=",
            )
        numbers, _ = ndimage.label(place)
        found.append(torch.from_numpy(numbers == numbers[point]))
    return torch.stack(found).to(labelled.device)


def by_distance(values: Tensor, places: Tensor, edges: Sequence[float]) -> Tensor:
    """How much of an attribution lies how far from the region? Shares of Σ|values| per ring of distance.

    Values (rows, channels, height, width) and the region's places (rows, height, width), or one for all rows, give
    (rows, rings), with rings [0, edges[0]), [edges[0], edges[1]), … and one beyond the last edge. Distances are Euclidean,
    in pixels, to the nearest place of the region, 0 inside it. The shares of a row sum to 1, or are 0 where it has no
    values or no region. A large share far from the region means that context decides.

    Example:
        >>> import torch
        >>> values, places = torch.tensor([[[[1.0, 0.0, 3.0]]]]), torch.tensor([[[True, False, False]]])
        >>> by_distance(values, places, [1, 2]).tolist()
        [[0.25, 0.0, 0.75]]
    """
    from scipy import ndimage

    places = places[None] if places.dim() == values.dim() - 2 else places
    if places.dtype != torch.bool or places.shape[1:] != values.shape[2:] or len(places) not in (1, len(values)):
        raise InputError(
            f"The 'places' must be a boolean tensor ({len(values)}, {', '.join(map(str, values.shape[2:]))})",
            got=f"{places.dtype} of shape {tuple(places.shape)}",
            hint="values at the size of the region's image: a layer's map must be enlarged first",
        )
    if not edges or any(b <= a for a, b in zip([0.0, *edges], edges, strict=False)):
        raise InputError("The 'edges' must be positive distances that grow", got=str(list(edges)))
    bounds = torch.tensor([float(edge) for edge in edges], dtype=torch.float64)
    shares = torch.zeros(len(values), len(edges) + 1, dtype=values.dtype)
    for row, (value, place) in enumerate(
        zip(values.cpu(), places.cpu().expand(len(values), *places.shape[1:]), strict=True)
    ):
        mass = value.abs().sum(0).flatten()
        if not bool(place.any()) or not bool(mass.sum() > 0):
            continue
        distance = torch.from_numpy(ndimage.distance_transform_edt(~place.numpy())).flatten()
        ring = torch.bucketize(distance, bounds, right=True)
        shares[row] = torch.zeros(len(edges) + 1, dtype=values.dtype).index_add(0, ring, mass) / mass.sum()
    return shares.to(values.device)
