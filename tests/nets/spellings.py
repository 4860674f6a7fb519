"""One network, its ReLU spelt in every way people spell it: same weights, same function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _assign(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0
    return y


def _halves(x: Tensor) -> Tensor:
    y = x.clone()
    half = y.shape[1] // 2
    y[:, :half].relu_()
    return y.relu()


def _written_slices(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    half = x.shape[1] // 2
    y[:, :half] = torch.relu(x[:, :half])
    y[:, half:] = x[:, half:].clamp(min=0)
    return y


def _view(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1).relu_()
    return y


def _times_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y *= y > 0
    return y


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "inplace-module": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu-inplace": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "relu-method": lambda x: x.relu(),
    "relu_": lambda x: x.relu_(),
    "torch.relu_": torch.relu_,
    "clamp": lambda x: x.clamp(min=0),
    "clamp-tensor": lambda x: x.clamp(min=torch.zeros_like(x)),
    "clip": lambda x: torch.clip(x, 0, None),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "clamp_": lambda x: x.clamp_(min=0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum-flipped": lambda x: torch.maximum(torch.zeros((), dtype=x.dtype), x),
    "max": lambda x: torch.max(x, torch.tensor(0, dtype=x.dtype)),
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "mask-product": lambda x: x * (x > 0),
    "float-mask-product": lambda x: (x > 0).to(x.dtype) * x,
    "detached-mask-product": lambda x: x * (x.detach() >= 0),
    "mask-product_": _times_in_place,
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where-number": lambda x: torch.where(x < 0, 0.0, x),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill-negated": lambda x: x.masked_fill(~(x > 0), 0),
    "mask-assignment": _assign,
    "leaky-without-slope": lambda x: F.leaky_relu(x, 0.0),
    "slices-in-place": _halves,
    "written-slices": _written_slices,
    "view-in-place": _view,
}


class Spelt(nn.Module):
    """Convolution, batch norm, pooling, residual addition and a head around one spelling of ReLU."""

    def __init__(self, relu: Callable[[Tensor], Tensor], bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(4 * 9, 6, bias=bias)
        self.head = nn.Linear(6, 3, bias=bias)
        self.relu = relu
        with torch.no_grad():
            for value in (self.norm.running_mean, self.norm.bias):
                value.copy_(torch.randn(4) * (0.3 if bias else 0.0))
            self.norm.running_var.copy_(torch.rand(4) + 0.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = self.pool(self.relu(self.second(x) + x))
        x = self.relu(self.hidden(x.flatten(1)))
        return self.head(x)


def image(rows: int = 3, channels: int = 2, side: int = 6, seed: int = 1) -> Tensor:
    """Rows of noise."""
    return torch.randn(rows, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
