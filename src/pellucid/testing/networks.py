"""Small networks that are awkward to explain: each breaks an assumption that explanation code likes to make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES, CLASSES, CHANNELS, HEIGHT, WIDTH, STEPS, WORDS = 6, 3, 2, 10, 8, 5, 11


class Planted(RuntimeError):
    """The error that a fixture raises on purpose."""


def fill(model: nn.Module, seed: int) -> nn.Module:
    """Give every parameter and running statistic fixed values in the order of their names, from a private generator."""
    private = torch.Generator().manual_seed(seed)

    def normal(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=private)

    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.dim() >= 2:
                x.copy_(normal(x) * 1.2 / math.sqrt(x[0].numel()))
            else:
                x.copy_((1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.15 * normal(x))
        for name, y in model.named_buffers():
            if name.endswith("running_mean"):
                y.copy_(0.2 * normal(y))
            elif name.endswith("running_var"):
                y.copy_(0.5 + torch.rand(y.shape, generator=private))
    return model


def mlp(features: int = FEATURES, hidden: int = 16, classes: int = CLASSES) -> nn.Sequential:
    """Three linear layers with rectifiers as modules."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


class Spelled(nn.Module):
    """The same multi-layer perceptron with its rectifiers written in another way."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, 16), nn.Linear(16, 16)
        self.last = nn.Linear(16, CLASSES)
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectify(self.first(x))
        return self.last(self.rectify(self.second(x)))


class Residual(nn.Module):
    """Convolution, batch norm and a sum of two paths; with `in_place`, the sum and the rectifier write in place."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(CHANNELS, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=in_place)
        self.head = nn.Linear(6, CLASSES)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(x))
        if self.in_place:
            y += x
        else:
            y = y + x
        return self.head(self.relu(y).mean((2, 3)))


class FunctionalResidual(nn.Module):
    """Residual blocks of bare parameters and functions: no module hook sees anything."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.block = nn.Parameter(torch.empty(12, FEATURES)), nn.Parameter(torch.empty(12, 12))
        self.leave = nn.Parameter(torch.empty(CLASSES, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.linear(x, self.enter)
        for _ in range(2):
            x = torch.add(x, functional.relu(x @ self.block.T))
        return functional.linear(x, self.leave)


class Recurrent(nn.Module):
    """A long short-term memory read at its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.lstm(x)
        return self.head(steps[:, -1])


class PaddedTransformer(nn.Module):
    """One encoder layer over padded sequences; `padding` is true where a step is to be ignored."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        real = (~padding)[..., None].to(x.dtype)
        x = self.encoder(x, src_key_padding_mask=padding) * real
        return self.head(x.sum(1) / real.sum(1))


class TwoInputs(nn.Module):
    """An image and a row of a table, given together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.table = nn.Conv2d(CHANNELS, 4, 3), nn.ReLU(), nn.Linear(FEATURES, 4)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        seen = self.relu(self.conv(image)).mean((2, 3))
        return self.head(torch.cat([seen, torch.tanh(self.table(table))], 1))


class Tokens(nn.Module):
    """Whole-number token ids and a mask (1 = real), as a dict: only the embedding has gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(WORDS, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = functional.gelu(self.mix(self.embedding(input_ids)))
        weight = attention_mask[..., None].to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1))


@dataclass
class ModelOutput:
    """An object with named parts, like those of large model libraries."""

    logits: Tensor
    hidden: Tensor
    loss: Tensor | None = None


class Returns(nn.Module):
    """A perceptron that returns more than one tensor, in the shape that `form` makes of (logits, hidden)."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(FEATURES, 12), nn.ReLU()), nn.Linear(12, CLASSES)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        return self.form(self.head(hidden), hidden)


class Changed(nn.Module):
    """A perceptron whose output goes through `change`."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.change = mlp(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.body(x))


class Views(nn.Module):
    """A convolution whose output is flattened by `reshape` after being laid out channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.head = nn.Linear(4 * HEIGHT * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x.contiguous(memory_format=torch.channels_last)))
        return self.head(x.permute(0, 2, 3, 1).view(x.shape[0], -1))


class Hoarder(nn.Module):
    """Keeps its last activation, counts its calls in an attribute and changes a buffer in every forward pass."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.body[0](x)
        with torch.no_grad():
            self.seen += x.detach().sum(0)
        return self.body[1:](self.last)


class Raises(nn.Module):
    """Raises from its k-th forward pass on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.body, self.call, self.calls = mlp(), call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.call:
            raise Planted(f"planted at call {self.call}")
        return self.body(x)


def fisher_vectors() -> nn.Module:
    """A classifier by the statistics of patches, with fixed statistics."""
    from pellucid.attribution.fisher_vectors import FisherVectors

    private, size = torch.Generator().manual_seed(5), 9 * CHANNELS
    means, projection = torch.randn(2, 3, generator=private), torch.randn(size, 3, generator=private) / size**0.5
    weights, variances = torch.tensor([0.25, 0.75]), 0.5 + torch.rand(2, 3, generator=private)
    return FisherVectors(weights, means, variances, CLASSES, patch=3, stride=2, projection=projection)


class Messages(nn.Module):
    """Two rounds of messages between the nodes of a graph, and the mean over nodes read out."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = functional.relu(self.enter(x + edges @ x))
        x = functional.relu(self.mix(x + edges @ x))
        return self.head(x.mean(1))


def graphs(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """For `Messages`: features, the same for the first rows however many there are, and rings, some with a chord."""
    x = torch.randn(64, STEPS, 4, generator=torch.Generator().manual_seed(31))[:count]
    edges = torch.eye(STEPS).roll(1, 1).repeat(len(x), 1, 1)
    edges[torch.arange(len(x)) % 3 > 0, 0, 2] = 1
    return x.to(dtype), torch.maximum(edges, edges.mT).to(dtype)
