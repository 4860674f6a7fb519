"""The usual image networks, each in four spellings of the same function, scaled by width.

`spelling` is "module" (nn.ReLU), "functional" (F.relu), "inplace" or "mixed" (alternating). The full-size
constructors at the end equal torchvision's in architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPELLINGS = ("module", "functional", "inplace", "mixed")


def rectifier(spelling: str) -> Callable[[Tensor], Tensor]:
    """A ReLU in the spelling asked for."""
    if spelling == "module":
        return nn.ReLU()
    if spelling == "functional":
        return F.relu
    if spelling == "inplace":
        return nn.ReLU(inplace=True)
    return Mixed()


class Mixed(nn.Module):
    """Another spelling of ReLU at each call, in rotation by the shape of its input."""

    def forward(self, x: Tensor) -> Tensor:
        ways = (torch.relu, lambda y: y.clamp(min=0), lambda y: y * (y > 0), lambda y: torch.where(y > 0, y, 0.0))
        return ways[sum(x.shape) % 4](x)


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of a sensible size and batch statistics that are not the identity; float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            fan = p[0].numel() if p.dim() > 1 else 1
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * math.sqrt(2 / fan) if p.dim() > 1 else noise * 0.1)
        for m in model.modules():
            if isinstance(m, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)) and m.weight is not None:
                m.weight.add_(1)
            if getattr(m, "running_var", None) is not None:
                m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator) * 0.1)
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
    return model.double().eval()


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a residual addition."""

    expansion = 1

    def __init__(self, into: int, width: int, stride: int, spelling: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = rectifier(spelling)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(into, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a residual addition."""

    expansion = 4

    def __init__(self, into: int, width: int, stride: int, spelling: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = rectifier(spelling)
        self.downsample = _shortcut(into, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _shortcut(into: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and into == out:
        return None
    return nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """Stem with overlapping max pooling, four stages, average pooling, one linear head."""

    def __init__(
        self, block: type = BasicBlock, depths: tuple[int, ...] = (2, 2, 2, 2), width: int = 64, classes: int = 1000,
        spelling: str = "module",
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = rectifier(spelling)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        into, stages = width, []
        for k, depth in enumerate(depths):
            out = width * 2**k
            stage = []
            for i in range(depth):
                stage.append(block(into, out, 2 if k and i == 0 else 1, spelling))
                into = out * block.expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(into, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class VGG(nn.Module):
    """Convolutions, max pooling and three linear layers with dropout."""

    def __init__(
        self, plan: tuple[int | str, ...], width: int, hidden: int, classes: int, grid: int, spelling: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        into = 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(into, int(step) * width // 64, 3, padding=1), Rectify(spelling)]
                into = int(step) * width // 64
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((grid, grid))
        self.classifier = nn.Sequential(
            nn.Linear(into * grid * grid, hidden), Rectify(spelling), nn.Dropout(),
            nn.Linear(hidden, hidden), Rectify(spelling), nn.Dropout(), nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Rectify(nn.Module):
    """A ReLU in some spelling as a module, so that it fits into a Sequential."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.act = rectifier(spelling)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class DenseNet(nn.Module):
    """Each layer reads all before it: batch norm before ReLU before convolution, concatenation, average pooling."""

    def __init__(self, growth: int = 4, layers: int = 3, classes: int = 5, spelling: str = "module") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, growth, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth * (i + 1)) for i in range(layers))
        self.convs = nn.ModuleList(nn.Conv2d(growth * (i + 1), growth, 3, padding=1, bias=False) for i in range(layers))
        self.relu = rectifier(spelling)
        self.shrink = nn.AvgPool2d(2)
        self.head = nn.Linear(growth * (layers + 1), classes)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            found.append(conv(self.relu(norm(torch.cat(found, 1)))))
        return self.head(F.adaptive_avg_pool2d(self.shrink(torch.cat(found, 1)), 1).flatten(1))


class UNet(nn.Module):
    """Down with max pooling, up with bilinear resizing and a transposed convolution, a skip; mean of the map as score."""

    def __init__(self, width: int = 4, classes: int = 3, spelling: str = "module") -> None:
        super().__init__()
        self.down = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.deep = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.last = nn.Conv2d(3 * width, classes, 1)
        self.instance = nn.InstanceNorm2d(2 * width)
        self.relu = rectifier(spelling)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.relu(self.norm(self.down(x)))
        deep = self.relu(self.instance(self.deep(F.max_pool2d(skip, 3, 2, 1))))
        large = F.interpolate(self.relu(self.up(deep)), size=skip.shape[-2:], mode="bilinear", align_corners=False)
        near = F.interpolate(skip[:, :, ::2, ::2], scale_factor=2.0, mode="nearest")
        return self.last(torch.cat([large, skip, near], 1)).mean((2, 3))


class Attention(nn.Module):
    """Self-attention spelt as nn.MultiheadAttention or with F.scaled_dot_product_attention or by hand."""

    def __init__(self, width: int, heads: int, way: str) -> None:
        super().__init__()
        self.heads, self.way = heads, way
        self.whole = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.way == "module":
            return self.whole(x, x, x, need_weights=False, attn_mask=mask)[0]
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for t in F.linear(x, self.whole.in_proj_weight, self.whole.in_proj_bias).chunk(3, -1)
        )
        if self.way == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            y = (scores if mask is None else scores + mask).softmax(-1) @ v
        return self.whole.out_proj(y.transpose(-3, -2).flatten(-2))


class ViT(nn.Module):
    """Patches, class token, position embedding, pre-norm blocks; `hidden` activation ReLU so that guided applies."""

    def __init__(
        self, width: int = 8, heads: int = 2, depth: int = 2, patch: int = 4, side: int = 16, classes: int = 5,
        spelling: str = "module", way: str = "module",
    ) -> None:  # fmt: skip
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.before = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.attention = nn.ModuleList(Attention(width, heads, way) for _ in range(depth))
        self.between = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), Rectify(spelling), nn.Linear(2 * width, width), nn.GELU())
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for before, attention, between, hidden in zip(
            self.before, self.attention, self.between, self.hidden, strict=True
        ):
            x = x + attention(before(x))
            x = x + hidden(between(x))
        return self.head(self.norm(x)[:, 0])


class Swin(nn.Module):
    """Attention in windows, then in shifted windows with a mask written by slices, patch merging, RMS norm."""

    def __init__(
        self, width: int = 8, heads: int = 2, window: int = 2, side: int = 8, classes: int = 5, spelling: str = "module",
        way: str = "sdpa",
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.grid = window, side // 2
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.ModuleList(Attention(width, heads, way) for _ in range(2))
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), Rectify(spelling), nn.Linear(2 * width, width))
        self.merge = nn.Linear(4 * width, 2 * width, bias=False)
        self.last, self.head = nn.RMSNorm(2 * width), nn.Linear(2 * width, classes)
        self.way, self.heads = way, heads

    def windows(self, x: Tensor, norm: nn.Module, attention: nn.Module, shift: int) -> Tensor:
        n, g, _, c = x.shape
        w = self.window
        y = torch.roll(norm(x), (-shift, -shift), (1, 2)) if shift else norm(x)
        y = y.view(n, g // w, w, g // w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)
        y = attention(y, self.mask(x, n, shift))
        y = y.view(n, g // w, g // w, w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(n, g, g, c)
        return torch.roll(y, (shift, shift), (1, 2)) if shift else y

    def mask(self, x: Tensor, rows: int, shift: int) -> Tensor | None:
        if not shift:
            return None
        g, w = self.grid, self.window
        region = x.new_zeros(g, g)
        for a, high in enumerate((slice(0, -w), slice(-w, -shift), slice(-shift, None))):
            for b, wide in enumerate((slice(0, -w), slice(-w, -shift), slice(-shift, None))):
                region[high, wide] = 3 * a + b
        region = region.view(g // w, w, g // w, w).permute(0, 2, 1, 3).reshape(-1, w * w)
        mask = (region[:, None] - region[:, :, None]).masked_fill_(region[:, None] != region[:, :, None], -100.0)
        mask = mask.repeat(rows, 1, 1)
        return mask.repeat_interleave(self.heads, 0) if self.way == "module" else mask[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        for k in range(2):
            x = x + self.windows(x, self.norms[k], self.attention[k], k)
        x = x + self.hidden(x)
        x = self.merge(torch.cat([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], -1))
        return self.head(self.last(x).mean((1, 2)))


# --- small, for tests ---

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def small_resnet(spelling: str = "module") -> nn.Module:
    """ResNet-18's stages, one block each, width 4."""
    return settle(ResNet(BasicBlock, (1, 1, 1, 1), 4, 5, spelling))


def small_bottleneck(spelling: str = "module") -> nn.Module:
    """ResNet-50's blocks, one each, width 2."""
    return settle(ResNet(Bottleneck, (1, 1, 1, 1), 2, 5, spelling))


def small_vgg(spelling: str = "module") -> nn.Module:
    """Five convolutions, two overlapping-free pools, width 4."""
    return settle(VGG((64, "M", 128, 128, "M", 128), 4, 8, 5, 2, spelling))


SMALL: dict[str, Callable[[str], nn.Module]] = {
    "resnet": small_resnet,
    "bottleneck": small_bottleneck,
    "vgg": small_vgg,
    "densenet": lambda spelling="module": settle(DenseNet(spelling=spelling)),
    "unet": lambda spelling="module": settle(UNet(spelling=spelling)),
    "vit": lambda spelling="module": settle(ViT(spelling=spelling)),
    "vit-sdpa": lambda spelling="module": settle(ViT(spelling=spelling, way="sdpa")),
    "vit-hand": lambda spelling="module": settle(ViT(spelling=spelling, way="hand")),
    "swin": lambda spelling="module": settle(Swin(spelling=spelling)),
    "swin-module": lambda spelling="module": settle(Swin(spelling=spelling, way="module")),
}
SIDES = {"swin": 8, "swin-module": 8}


# --- full size, for benchmarks; torch's own initialisation ---


def resnet18(spelling: str = "inplace") -> nn.Module:
    """ResNet-18, 224 × 224."""
    return ResNet(BasicBlock, (2, 2, 2, 2), spelling=spelling).eval()


def resnet50(spelling: str = "inplace") -> nn.Module:
    """ResNet-50, 224 × 224."""
    return ResNet(Bottleneck, (3, 4, 6, 3), spelling=spelling).eval()


def vgg16(spelling: str = "inplace") -> nn.Module:
    """VGG-16, 224 × 224."""
    return VGG(VGG16, 64, 4096, 1000, 7, spelling).eval()
