"""A network set by hand, whose every column has a known share in closed form, whatever the background."""

from __future__ import annotations

import torch
from torch import Tensor, nn

COLUMNS = ("rises", "falls", "saturates", "pair, one", "pair, other", "weak", "copy of rises", "noise")
RISES, FALLS, SATURATES, ONE, OTHER, WEAK, COPY, NOISE = range(len(COLUMNS))
READ = (RISES, FALLS, SATURATES, ONE, OTHER, WEAK)


class Circuit(nn.Module):
    """f = 3 a - 2 b + 4 min(c, 1) + 5 max(d + e - 1, 0) + w / 2 for columns from 0 up; "copy" and "noise" are not read.

    Two scores, 0 and f, from one layer of rectifiers, so that every rule for such networks applies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(len(COLUMNS), 6), nn.Linear(6, 2)
        weights, biases = torch.zeros(6, len(COLUMNS)), torch.zeros(6)
        for unit, columns in enumerate(((RISES,), (FALLS,), (SATURATES,), (SATURATES,), (ONE, OTHER), (WEAK,))):
            weights[unit, list(columns)] = 1.0
        biases[3] = biases[4] = -1.0
        with torch.no_grad():
            self.hidden.weight.copy_(weights)
            self.hidden.bias.copy_(biases)
            self.output.weight.copy_(torch.tensor([[0.0] * 6, [3.0, -2.0, 4.0, -4.0, 5.0, 0.5]]))
            self.output.bias.zero_()
        self.activation = nn.ReLU()
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        return self.output(self.activation(self.hidden(rows)))


def draw(count: int, seed: int) -> Tensor:
    """Rows (count, 8): columns from 0 to 1.5, independent but for the copy; "saturates" is 0 or 2, as likely."""
    uniform = torch.rand(count, len(COLUMNS), generator=torch.Generator().manual_seed(seed))
    rows = 1.5 * uniform
    rows[:, SATURATES] = 2.0 * (uniform[:, SATURATES] < 0.5)
    rows[:, COPY] = rows[:, RISES]
    return rows


def shapley(rows: Tensor, background: Tensor) -> Tensor:
    """Each column's share (rows, 8) of f(row) - mean f(background row), by formula; float64.

    Terms of one column are theirs; the pair's term is a game of two players.
    """
    x, b = rows.double()[:, None], background.double()[None]
    found = torch.zeros(len(rows), len(background), len(COLUMNS), dtype=torch.float64)
    for column, term in (
        (RISES, lambda v: 3 * v),
        (FALLS, lambda v: -2 * v),
        (SATURATES, lambda v: 4 * v.clamp(max=1)),
        (WEAK, lambda v: v / 2),
    ):
        found[:, :, column] = term(x[..., column]) - term(b[..., column])

    def pair(one: Tensor, other: Tensor) -> Tensor:
        return 5 * (one + other - 1).clamp(min=0)

    d, e, d0, e0 = x[..., ONE], x[..., OTHER], b[..., ONE], b[..., OTHER]
    found[:, :, ONE] = (pair(d, e) - pair(d0, e) + pair(d, e0) - pair(d0, e0)) / 2
    found[:, :, OTHER] = (pair(d, e) - pair(d, e0) + pair(d0, e) - pair(d0, e0)) / 2
    return found.mean(1)
