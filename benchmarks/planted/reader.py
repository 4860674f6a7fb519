"""A reader with attention, set by hand: it adds up what words say that can be opinions, and reads no other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.worlds import grammar

WIDTH = 4
LOOKS, SAYS = 0, 1  # dimensions of a word's vector: whether it can be an opinion, and which
SHARPNESS = 8.0


class Reader(nn.Module):
    """Token ids (N, words) to two scores, minus and plus the mean of the opinions that attention weighs.

    Every word asks the same question, whether another can be an opinion, so that attention is even over opinions and next
    to nothing elsewhere (e⁻⁸ of an opinion's). Other dimensions of words' vectors are random, and nothing reads them.
    """

    def __init__(self) -> None:
        super().__init__()
        vectors = torch.randn(len(grammar.VOCABULARY), WIDTH, generator=torch.Generator().manual_seed(0))
        vectors[:, LOOKS] = torch.tensor([float(word in grammar.POLARITY) for word in grammar.VOCABULARY])
        vectors[:, SAYS] = torch.tensor([float(grammar.POLARITY.get(word, 0)) for word in grammar.VOCABULARY])
        self.embedding = nn.Embedding.from_pretrained(vectors)
        self.query, self.key, self.value = (nn.Linear(WIDTH, 1) for _ in range(3))
        self.output = nn.Linear(1, 2)
        with torch.no_grad():
            for layer in (self.query, self.key, self.value, self.output):
                layer.weight.zero_()
                assert layer.bias is not None
                layer.bias.zero_()
            self.query.bias.fill_(SHARPNESS)
            self.key.weight[0, LOOKS] = 1.0
            self.value.weight[0, SAYS] = 1.0
            self.output.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        """Where words become vectors."""
        return self.embedding

    def forward(self, input_ids: Tensor) -> Tensor:
        words = self.embedding(input_ids)
        weights = (self.query(words) @ self.key(words).transpose(1, 2)).softmax(2)
        return self.output((weights @ self.value(words)).mean(1))
