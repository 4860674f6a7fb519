"""Plans on the shapes that common image networks take, and the convolution kernels they use, each by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.engine import plan
from pellucid.engine.plan.kernels import Backward, Joined, input_gradient
from pellucid.engine.plan.ops import Affine


@pytest.fixture(autouse=True)
def _no_plans_left() -> Iterator[None]:
    yield
    plan._shelves.clear()


class Dense(nn.Module):
    """Batch-norm before each convolution, all earlier maps concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * index) for index in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * index, 4, 3, padding=1, bias=False) for index in range(3))
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            maps.append(conv(F.relu(norm(torch.cat(maps, 1)), inplace=True)))
        return self.fc(torch.cat(maps, 1).mean([2, 3]))


class Mobile(nn.Module):
    """Depthwise convolutions, squeeze and excitation, other activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True))
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.narrow, self.fc = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(self.wide(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.fc((x + self.narrow(y)).mean((-2, -1)))


class Patches(nn.Module):
    """Patch embedding, layer norm over channels, depthwise 7x7, linear layers on channels-last views."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale, self.fc = nn.Parameter(torch.full((8, 1, 1), 0.1)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        return self.fc((x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)).mean((2, 3)))


class Upward(nn.Module):
    """Down and up again, with a skip, a transposed convolution and a shape-dependent resize."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.three = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.one(x))
        b = self.up(F.relu(self.two(F.max_pool2d(a, 2))))
        if b.shape[-2:] != a.shape[-2:]:
            b = F.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)
        return self.three(torch.cat([a, b], dim=1)).flatten(1)


class Attention(nn.Module):
    """A vision transformer's block, with attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 17, 8))
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.position[:, : x.shape[1] + 1]
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(rows, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))).softmax(-1)
        x = x + self.drop(self.out((weights @ v).transpose(1, 2).reshape(rows, length, width)))
        return self.fc(x[:, 0])


class Branches(nn.Module):
    """Parallel branches with flat kernels, joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(18, 5)
        self.row, self.column = nn.Conv2d(6, 6, (1, 7), padding=(0, 3)), nn.Conv2d(6, 6, (7, 1), padding=(3, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = torch.cat([F.relu(self.row(x)), F.relu(self.column(x)), F.avg_pool2d(x, 3, 1, 1)], 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


@pytest.mark.parametrize("build", [Dense, Mobile, Patches, Upward, Attention, Branches])
@pytest.mark.parametrize("size", [(32, 32), (33, 37)], ids=str)
def test_common_architectures(build: Callable[[], nn.Module], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    x, y = torch.randn(3, 3, *size), torch.randn(5, 3, *size)
    for kind in ("gradient", "forward"):
        found = plan.get(model, (x,), kind)
        assert found is not None, plan.explain_none(model, (x,), kind)
        with torch.no_grad():
            right, got = model(y), found(y).clone()
        assert float((got - right).abs().max() / right.abs().max()) < 1e-5
    slopes = []
    for run in (model, plan.get(model, (x,))):
        point = y.clone().requires_grad_()
        slopes.append(torch.autograd.grad(run(point).pow(2).sum(), point)[0])
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-4


def _convolution(
    channels: int, kernel: int, stride: int, padding: int, dilation: int = 1, relu: bool = False
) -> Affine:
    weight = torch.randn(8, channels, kernel, kernel).contiguous(memory_format=torch.channels_last)
    pairs = {"stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (dilation,) * 2}
    return Affine(
        kind="convolution", weight=weight, bias=None, output_padding=(0, 0), channels_last=True, relu=relu, **pairs
    )


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_backward_kernels_equal_torch(channels: int, stride: int) -> None:
    torch.manual_seed(0)
    kinds = set()
    for kernel, padding, dilation, size in itertools.product((1, 2, 3, 5, 7), (0, 1, 3), (1, 2), ((16, 19), (17, 22))):
        step, shape = _convolution(channels, kernel, stride, padding, dilation), (2, channels, *size)
        backward = Backward(step, shape)
        kinds.add("blocks" if backward.blocks else "flipped" if backward.flipped else "torch")
        gradient = torch.randn_like(step.map(torch.randn(shape)))
        with torch.no_grad():
            got = backward(gradient, shape)
        right = input_gradient(step, gradient.contiguous(memory_format=torch.channels_last), shape)
        assert got.shape == right.shape
        torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()) + 1e-6)
    assert ("blocks" if channels <= 4 else "flipped" if stride == 1 else "torch") in kinds


def test_joined_step_is_twice_differentiable() -> None:
    torch.manual_seed(0)
    step = _convolution(3, 3, 1, 1)
    joined, x, other = Joined(step, (2, 3, 8, 8)), torch.randn(2, 3, 8, 8), torch.randn(2, 8, 8, 8)

    def curvature(run: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        point, added = x.clone().requires_grad_(), other.clone().requires_grad_()
        slopes = torch.autograd.grad(run(point, added).tanh().pow(2).sum(), (point, added), create_graph=True)
        weighted = sum((slope * torch.linspace(1, 2, slope.numel()).reshape(slope.shape)).sum() for slope in slopes)
        return list(torch.autograd.grad(weighted, (point, added)))

    for got, right in zip(curvature(joined), curvature(step), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)
