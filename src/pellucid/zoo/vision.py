"""Small image classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.zoo.recipe import recipe


@recipe("digits-cnn", data="digits", epochs=15, learning_rate=6e-3, target=0.97, layer="conv2")
class DigitsCNN(nn.Module):
    """Two convolutions at full resolution, one pooling, two linear layers; ``(N, 1, 8, 8)`` to ``(N, 10)``.

    Its activations are functional calls, as in much code that users bring, so no module stands for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.output = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.conv1(images))
        maps = F.relu(self.conv2(maps))
        maps = F.max_pool2d(maps, 2)
        return self.output(F.relu(self.hidden(maps.flatten(1))))


@recipe("lenet5", data="digits", epochs=10, learning_rate=6e-3, target=0.97, layer="c3")
class LeNet5(nn.Module):
    """LeNet-5 on 8×8 digits, enlarged to the 32×32 it was drawn for; ``(N, 1, 8, 8)`` to ``(N, 10)``.

    As in the original: tanh, average pooling, three convolutions and two linear layers under the names of the
    paper. It departs in having plain pooling without weights, a fully connected C3 and a linear output.
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-Based Learning Applied to Document Recognition,
    section II.B.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enlarge = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
        self.c1 = nn.Conv2d(1, 6, kernel_size=5)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.s4 = nn.AvgPool2d(2)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.s2(torch.tanh(self.c1(self.enlarge(images))))
        maps = self.s4(torch.tanh(self.c3(maps)))
        maps = torch.tanh(self.c5(maps))
        return self.output(torch.tanh(self.f6(maps.flatten(1))))


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation around which the input is added; a 1×1 one fits its shape."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps))


_SHAPES = {"n": 4000, "seed": 0}


@recipe("shapes-cnn", data="shapes", data_settings=_SHAPES, epochs=6, learning_rate=1e-2, target=0.95, layer="block3")
@recipe(
    "shapes-cnn-spurious",
    data="shapes",
    data_settings=_SHAPES | {"spurious": "tag", "spurious_probability": 0.98},
    epochs=3,
    learning_rate=1e-2,
    target=0.95,
    layer="block3",
)
class ShapesCNN(nn.Module):
    """A residual network of three blocks, averaged over places and read out linearly; ``(N, 3, 32, 32)`` to ``(N, 5)``.

    The last block's maps are 8×8, and the linear readout of their averages makes class activation maps exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block1 = ResidualBlock(16, 16, stride=2)
        self.block2 = ResidualBlock(16, 32, stride=1)
        self.block3 = ResidualBlock(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.bn(self.stem(images)))
        maps = self.block3(self.block2(self.block1(maps)))
        return self.output(self.pool(maps).flatten(1))
