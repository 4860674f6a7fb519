"""A small translator with attention, whose language is planted: the translation is the sentence backwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

START, WORDS, LENGTH = 0, 9, 5


class Translator(nn.Module):
    """Two-way GRU encoder, additive attention, GRU decoder, maxout readout: word numbers in, logits of each next word."""

    def __init__(self, width: int = 16, hidden: int = 16) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, width), nn.Embedding(WORDS, width)
        self.encoder = nn.GRU(width, hidden, batch_first=True, bidirectional=True)
        self.begin = nn.Linear(hidden, hidden)
        self.key, self.query, self.energy = (
            nn.Linear(2 * hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        )  # fmt: skip
        self.attention = nn.Softmax(1)
        self.cell = nn.GRUCell(width + 2 * hidden, hidden)
        self.readout, self.out = nn.Linear(3 * hidden + width, 2 * hidden), nn.Linear(hidden, WORDS)

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        return self.decode(self.source(source), self.target(prefix))

    def decode(self, words: Tensor, before: Tensor) -> Tensor:
        """The same from word vectors."""
        states, _ = self.encoder(words)
        keys, state = self.key(states), self.begin(states[:, 0, states.shape[2] // 2 :]).tanh()
        logits = []
        for word in before.unbind(1):
            scores = self.energy((keys + self.query(state)[:, None]).tanh())
            seen = (self.attention(scores) * states).sum(1)
            state = self.cell(torch.cat([word, seen], 1), state)
            hidden = self.readout(torch.cat([state, word, seen], 1)).unflatten(1, (-1, 2)).amax(2)
            logits.append(self.out(hidden))
        return torch.stack(logits, 1)


def sentences(rows: int, seed: int, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor]:
    """Word numbers of sentences, what the decoder has read before each word, and the translation."""
    source = torch.randint(1, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))
    translated = source.flip(1)
    return source, torch.cat([torch.full((rows, 1), START), translated[:, :-1]], 1), translated


def trained(steps: int = 300) -> Translator:
    """A translator that knows the language. Half of what it has read is wrong, so that it has to look at the source."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Translator()
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        for step in range(steps):
            source, prefix, translated = sentences(64, step)
            prefix = torch.where(torch.rand(prefix.shape) < 0.5, torch.randint(1, WORDS, prefix.shape), prefix)
            loss = nn.functional.cross_entropy(net(source, prefix).flatten(0, 1), translated.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.double().eval()


def planted() -> Translator:
    """Weights by hand: states are the words' own vectors, attention is on the mirrored place, and only it is read."""
    net = Translator(width=16, hidden=16).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.source.weight[:, :WORDS] = torch.eye(WORDS, dtype=torch.float64)
        for way in ("", "_reverse"):  # n = tanh(word), and gates that keep nothing of the state before
            getattr(net.encoder, f"weight_ih_l0{way}")[32:] = torch.eye(16, dtype=torch.float64)
            getattr(net.encoder, f"bias_ih_l0{way}")[16:32] = -50.0
        net.readout.weight[::2, 32:48] = torch.eye(16, dtype=torch.float64)  # the forward half of what is seen
        net.readout.bias[1::2] = -1.0
        net.out.weight[:, :WORDS] = 3 * torch.eye(WORDS, dtype=torch.float64)
    net.attention = Mirror()
    return net.eval()


class Mirror(nn.Module):
    """Attention that looks at the mirrored place, whatever the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, scores: Tensor) -> Tensor:
        place, self.step = self.step, (self.step + 1) % scores.shape[1]
        weights = torch.full_like(scores, -100.0)
        weights[:, scores.shape[1] - 1 - place] = 100.0
        return (0 * scores + weights).softmax(1)
