"""One small network of every kind that people explain, with fixed weights and inputs for it: to see what works on which."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, COLUMNS, STEPS, WIDTH, WORDS, SIDE, NODES = 3, 6, 5, 4, 11, 8, 5
MOST = 64  # more rows begin with the same ones


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A kind of model.

    `build` makes it with fixed weights; `rows` its inputs, as many as asked for, at most 64. `kind` says what the inputs
    are: "table", "image", "sequence", "text", "graph" or "two inputs". `layer` is the place to explain where the input
    itself can't be, `hidden` a place inside, `spatial` one that holds maps.
    """

    name: str
    kind: str
    build: Callable[[], Any]
    rows: Callable[[int], Any]
    layer: str | None = None
    hidden: str | None = None
    spatial: str | None = None


class Residual(nn.Module):
    """Two convolutions with batch norm, and a way around the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(x + self.second(x))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer read at its last step."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.steps, self.head = layer(WIDTH, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.steps(x)[0][:, -1])


class Transformer(nn.Module):
    """One encoder layer over a sequence, averaged; of an image, over its patches."""

    def __init__(self, patches: bool = False) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, 8, 4, 4) if patches else nn.Linear(WIDTH, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x.flatten(2).mT if x.dim() == 4 else x
        return self.head(self.encoder(x).mean(1))


class TextConvolution(nn.Module):
    """Word embeddings, filters over three words, and the largest answer of each filter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.filters, self.head = nn.Embedding(WORDS, 6), nn.Conv1d(6, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(functional.relu(self.filters(self.embedding(words).mT)).amax(2))


class Pair(nn.Module):
    """An image and a row of a table, given together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table, self.head = nn.Conv2d(2, 4, 3), nn.Linear(COLUMNS, 4), nn.Linear(8, CLASSES)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        seen = functional.relu(self.conv(image)).mean((2, 3))
        return self.head(torch.cat([seen, torch.tanh(self.table(row))], 1))


class Messages(nn.Module):
    """Two rounds of messages between the nodes of a graph, and the mean over the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        x = functional.relu(self.enter(nodes + edges @ nodes))
        return self.head(functional.relu(self.mix(x + edges @ x)).mean(1))


class Capsules(nn.Module):
    """Capsules of two numbers, routed to classes by agreement in three rounds (Sabour, Frosst & Hinton 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 5, 3)
        self.votes = nn.Parameter(torch.empty(8, CLASSES, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        low = squash(self.conv(x).flatten(1).reshape(len(x), 8, 2))
        votes = torch.einsum("ncd,ckde->ncke", low, self.votes)
        bonds = torch.zeros_like(votes[..., 0])
        for _ in range(3):
            high = squash((bonds.softmax(2)[..., None] * votes).sum(1))
            bonds = bonds + (votes * high[:, None]).sum(3)
        return (high**2).sum(2)


def squash(x: Tensor) -> Tensor:
    """Vectors of length below one, in the same direction."""
    square = (x**2).sum(-1, keepdim=True)
    return x * square.sqrt() / (1 + square)


class RadialBasis(nn.Module):
    """Distances to centres, through a Gaussian, and a weighted sum."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.head = nn.Parameter(torch.empty(8, COLUMNS)), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        away = ((x[:, None] - self.centres) ** 2).sum(2)
        return self.head(torch.exp(-away / (2 * COLUMNS)))


def tree(x: Tensor) -> Tensor:
    """A decision tree: three tests, four leaves, shares of three classes; no gradient says anything about it."""
    leaf = torch.where(x[:, 0] > 0, 2 + (x[:, 2] > 0.5).long(), (x[:, 1] > -0.5).long())
    shares = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6], [0.05, 0.05, 0.9]]
    return torch.tensor(shares, dtype=x.dtype)[leaf.cpu()]


def function(x: Tensor) -> Any:
    """A function of which nothing is known but its answers, in NumPy."""
    rows = x.detach().cpu().double().numpy()
    return np.stack([rows[:, 0] * rows[:, 1], rows[:, 2] - 0.5 * rows[:, 3] ** 2, abs(rows[:, 4]) - 0.3], 1)


def settled(model: nn.Module) -> nn.Module:
    """The same weights every time, from a generator of its own, in evaluation mode and double precision.

    Rounding would otherwise be mistaken for what one row does to another, by methods that optimise.
    """
    private = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            drawn = torch.randn(p.shape, generator=private)
            scale = 1.2 / math.sqrt(p[0].numel()) if p.dim() > 1 else 0.15
            p.copy_(drawn * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.double().eval()


def _made(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return settled(build())

    return make


def _normal(seed: int, *shape: int) -> Callable[[int], Tensor]:
    return lambda count: torch.randn(MOST, *shape, generator=torch.Generator().manual_seed(seed)).double()[:count]


def _words(count: int) -> Tensor:
    return torch.randint(1, WORDS, (MOST, STEPS + 1), generator=torch.Generator().manual_seed(5))[:count]


def _graphs(count: int) -> tuple[Tensor, Tensor]:
    ring = torch.eye(NODES).double().roll(1, 1)
    edges = torch.maximum(ring, ring.T).repeat(count, 1, 1)
    edges[torch.arange(count) % 2 == 1, 0, 2] = edges[torch.arange(count) % 2 == 1, 2, 0] = 1.0
    return _normal(6, NODES, WIDTH)(count), edges


TABLE, IMAGE, SEQUENCE = _normal(1, COLUMNS), _normal(2, 2, SIDE, SIDE), _normal(4, STEPS, WIDTH)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def _cnn() -> nn.Module:
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES)]
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), nn.ReLU(), *ends)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(name="perceptron", kind="table", build=_made(_mlp), rows=TABLE, hidden="2"),
    Architecture(name="radial basis", kind="table", build=_made(RadialBasis), rows=TABLE, hidden="head"),
    Architecture(name="decision tree", kind="table", build=lambda: tree, rows=TABLE),
    Architecture(name="function", kind="table", build=lambda: function, rows=TABLE),
    Architecture(name="convolutional", kind="image", build=_made(_cnn), rows=IMAGE, hidden="3", spatial="4"),
    Architecture(name="residual", kind="image", build=_made(Residual), rows=IMAGE, hidden="second", spatial="second"),
    Architecture(
        name="vision transformer", kind="image", build=_made(lambda: Transformer(True)), rows=IMAGE, hidden="encoder"
    ),
    Architecture(name="capsules", kind="image", build=_made(Capsules), rows=IMAGE, hidden="conv", spatial="conv"),
    Architecture(name="LSTM", kind="sequence", build=_made(lambda: Recurrent(nn.LSTM)), rows=SEQUENCE, hidden="head"),
    Architecture(name="GRU", kind="sequence", build=_made(lambda: Recurrent(nn.GRU)), rows=SEQUENCE, hidden="head"),
    Architecture(name="transformer", kind="sequence", build=_made(Transformer), rows=SEQUENCE, hidden="encoder"),
    Architecture(
        name="text convolution",
        kind="text",
        build=_made(TextConvolution),
        rows=_words,
        layer="embedding",
        hidden="filters",
    ),
    Architecture(name="graph network", kind="graph", build=_made(Messages), rows=_graphs, hidden="enter"),
    Architecture(
        name="image and table",
        kind="two inputs",
        build=_made(Pair),
        rows=lambda count: (IMAGE(count), TABLE(count)),
        hidden="conv",
        spatial="conv",
    ),
)
KINDS = tuple(dict.fromkeys(a.kind for a in ARCHITECTURES))
