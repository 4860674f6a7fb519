"""Small networks that plans must get right, and how to make, feed and differentiate them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block with in-place sum and reused in-place ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs, eps=0.1)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.short(x) if self.conv1.stride != (1, 1) else x
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1, self.layer2 = Block(8, 8, 1), Block(8, 12, 2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.conv(x)), inplace=True), 3, 2, 1)
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Functional(nn.Module):
    """Weights used by functions, one of them twice, and a weight computed from two."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3) * 0.2)
        self.gain = nn.Parameter(torch.rand(6, 1, 1, 1) + 0.5)
        self.matrix = nn.Parameter(torch.randn(4, 6) * 0.3)
        self.register_buffer("shift", torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel * self.gain, padding="same").relu() + self.shift
        x = x.mean((2, 3)).view(x.shape[0], -1)
        return F.linear(F.linear(x, self.matrix).tanh(), self.matrix.t()).softmax(-1)


class InPlace(nn.Module):
    """In-place steps on values that are read again, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        before = x * 0.5
        alias = x
        x *= 2
        x.clamp_(min=0)
        before += alias
        torch.relu_(before)
        return torch.cat([before, alias, x.add_(1)], 1).sum((2, 3))


class Views(nn.Module):
    """Writes through views and slices of its own values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        flat = x.view(x.size(0), -1)
        flat.clamp_(min=0)
        x[:, 0] = x[:, 1] * 2
        return x.sum((2, 3))


class Reused(nn.Module):
    """One convolution and one batch-norm called twice; tied linear weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.bn(self.conv(x)).relu())
        return self.two(self.one(self.bn(x).mean((2, 3))))


class Shapes(nn.Module):
    """Branches, loops and arithmetic over the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.unsqueeze(0)
        rows, channels, height, _ = x.shape
        assert channels == 3
        x = self.conv(x)
        while x.shape[-1] > 6:
            x = self.pool(x)
        x = torch.cat([self.token.expand(rows, -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x * x.size(-1) ** -0.5 + torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        first, second = x.chunk(2, dim=-1)
        return (first * second if height > 12 else first).reshape(rows, -1)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.image, self.head = nn.Embedding(9, 5), nn.Conv2d(3, 5, 3), nn.Linear(10, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor, words: Tensor) -> dict[str, Tensor]:
        x = torch.cat([F.dropout(self.image(image).amax((2, 3)), 0.5, self.training), self.embed(words).mean(1)], 1)
        return {"scores": self.head(self.drop(x)), "features": x}


class Norms(nn.Module):
    """Batch-norm after every affine kind, and where it must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4, affine=False)
        self.up, self.bn_up = nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6)
        self.depthwise, self.bn_deep = nn.Conv2d(6, 12, 3, groups=6, dilation=2), nn.BatchNorm2d(12)
        self.line, self.bn_line = nn.Conv1d(12, 5, 3, padding="same"), nn.BatchNorm1d(5)
        self.linear, self.bn_flat = nn.Linear(5, 5), nn.BatchNorm1d(5)
        self.sequence, self.bn_middle = nn.Linear(5, 5), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x) + x
        x = self.bn_deep(self.depthwise(self.bn_up(self.up(x))))
        x = self.bn_line(self.line(x.flatten(2))).mean(2)
        x = self.bn_flat(self.linear(x))
        return self.bn_middle(self.sequence(x[:, None].expand(-1, 4, -1))).flatten(1)


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, (state, _) = self.lstm(x)
        return self.head(out[:, -1] + state[-1])


IMAGE, SEQUENCE = (3, 16, 16), (5, 4)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "functional": (Functional, IMAGE),
    "in-place": (InPlace, IMAGE),
    "views": (Views, IMAGE),
    "reused": (Reused, IMAGE),
    "shapes": (Shapes, IMAGE),
    "norms": (Norms, IMAGE),
    "encoder": (_encoder, SEQUENCE),
    "recurrent": (Recurrent, SEQUENCE),
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2)), (4,)),
}


def made(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    """An evaluation-mode network whose batch-norms have seen data."""
    torch.manual_seed(3)
    model = build().to(dtype).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model


def rows(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, *shape, dtype=dtype, generator=torch.Generator().manual_seed(count))


def slope(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    out = run(x)
    return torch.autograd.grad(out, x, torch.linspace(1, 2, out.numel(), dtype=out.dtype).reshape(out.shape))[0]


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())
