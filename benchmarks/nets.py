"""The image networks the field measures on, with random weights: same layers as torchvision's, in the same order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1 with four times the channels)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        if not bottleneck:
            sizes = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        self.conv1, self.bn1 = _convolution(*sizes[0]), nn.BatchNorm2d(sizes[0][1])
        self.conv2, self.bn2 = _convolution(*sizes[1]), nn.BatchNorm2d(sizes[1][1])
        if bottleneck:
            self.conv3, self.bn3 = _convolution(*sizes[2]), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.bottleneck = bottleneck
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(self.relu(out)))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A residual network for 224-pixel images and 1000 classes."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, depth in enumerate(depths):
            width, blocks = 64 * 2**index, []
            for block in range(depth):
                blocks.append(Residual(channels, width, 2 if index and not block else 1, bottleneck))
                channels = width * 4 if bottleneck else width
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class VGG(nn.Module):
    """A plain stack of 3x3 convolutions with two wide linear layers."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        wide = [nn.Linear(512 * 49, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True)]
        self.classifier = nn.Sequential(*wide, nn.Dropout(), nn.Linear(4096, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: ResNet((3, 4, 6, 3), bottleneck=True),
    "vgg16": lambda: VGG((2, 2, 3, 3, 3)),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """An evaluation-mode network with He-initialised convolutions and batch-norm statistics that differ by channel."""
    generator = torch.Generator().manual_seed(seed)
    model = _BUILDERS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            with torch.no_grad():
                module.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2, generator=generator)  # type: ignore[union-attr]
    return model


def images(rows: int, size: int = 224, seed: int = 1) -> Tensor:
    """Standard normal images."""
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(seed))
