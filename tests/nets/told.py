"""An explanation that says what it is told, so that measurements of explanations can be tested by hand."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pellucid.contract import Attribution, Card, Method

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@dataclass(frozen=True, kw_only=True)
class Told(Method):
    """The inputs themselves as the explanation, so that a test can say what is measured."""

    card: ClassVar[Card] = Card(
        name="test-told",
        title="Told",
        question="What was told?",
        form="attribution",
        scope="local",
        citation="none",
        claims=("rowwise", "deterministic"),
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Attribution(values=ask.inputs.wrap(ask.inputs.floats))


class Sums(nn.Module):
    """The sum of all values, and its opposite."""

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True) * torch.tensor([1.0, -1.0]).to(x)


NET = Sums().eval()


class Six(nn.Module):
    """Six values of any shape to three scores, with one hidden layer of tanh."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5, **DOUBLE), nn.Linear(5, 3, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))
