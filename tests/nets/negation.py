"""A planted language: sentences of neutral words with one opinion word, which "not" in front of it turns round."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WORDS = ("the", "film", "was", "very", "a", "story", "good", "bad", "not")
GOOD, BAD, NOT = (WORDS.index(word) for word in ("good", "bad", "not"))
LENGTH = 6


class Reader(nn.Module):
    """Embedding, one LSTM, logits from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 6)
        self.lstm, self.head = nn.LSTM(6, 10, batch_first=True), nn.Linear(10, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0][:, -1])


def sentences(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Word ids and whether the opinion is good."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, GOOD, (rows, LENGTH), generator=draw)
    at = torch.randint(1, LENGTH, (rows,), generator=draw)
    good, negated = (torch.rand(rows, generator=draw) < 0.5 for _ in range(2))
    ids[torch.arange(rows), at] = torch.where(good, GOOD, BAD)
    ids[torch.arange(rows)[negated], at[negated] - 1] = NOT
    return ids, (good ^ negated).long()


def trained(steps: int = 250) -> Reader:
    """A reader that knows the language."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Reader()
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for step in range(steps):
            ids, labels = sentences(128, step)
            loss = nn.functional.cross_entropy(net(ids), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.double().eval()
