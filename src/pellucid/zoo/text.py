"""Small readers of sentences: recurrent and convolutional ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.worlds.grammar import VOCABULARY
from pellucid.zoo.recipe import recipe

_SENTENCES = {"n": 4000, "seed": 0}


class Reader(nn.Module):
    """Token ids ``(N, words)``, padded with 0 at the end, to scores ``(N, 2)``; the words' vectors are ``embedding``."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), dimensions, padding_idx=0)

    def get_input_embeddings(self) -> nn.Module:
        """Where explanations of words are made, under the name that large model libraries use."""
        return self.embedding


class RecurrentReader(Reader):
    """One recurrent layer, read at the last word of each sentence, so that padding changes nothing."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__(dimensions=16)
        self.recurrent = kind(16, 32, batch_first=True)
        self.output = nn.Linear(32, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        steps, _ = self.recurrent(self.embedding(input_ids))
        is_last = F.one_hot((input_ids != 0).sum(dim=1) - 1, input_ids.shape[1]).to(steps.dtype)
        return self.output((steps * is_last[..., None]).sum(dim=1))


@recipe("sentences-gru", data="sentences", data_settings=_SENTENCES, epochs=12, learning_rate=1e-2, target=0.97)
@recipe(
    "sentences-gru-spurious",
    data="sentences",
    data_settings=_SENTENCES | {"spurious": True, "spurious_probability": 0.98},
    epochs=4,
    learning_rate=1e-2,
    target=0.95,
)
def sentences_gru() -> RecurrentReader:
    """Gated recurrent units on sentences about a restaurant: is the food good?"""
    return RecurrentReader(nn.GRU)


@recipe("sentences-lstm", data="sentences", data_settings=_SENTENCES, epochs=12, learning_rate=1e-2, target=0.97)
def sentences_lstm() -> RecurrentReader:
    """A long short-term memory on the same sentences."""
    return RecurrentReader(nn.LSTM)


@recipe("sentences-cnn", data="sentences", data_settings=_SENTENCES, epochs=12, learning_rate=1e-2, target=0.97)
class SentencesCNN(Reader):
    """Two convolutions over words and the largest value of each feature along the sentence."""

    def __init__(self) -> None:
        super().__init__(dimensions=16)
        self.conv1 = nn.Conv1d(16, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(32, 32, kernel_size=5, padding=2)
        self.output = nn.Linear(32, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        is_word = (input_ids != 0)[:, None]
        features = F.relu(self.conv1(self.embedding(input_ids).transpose(1, 2))) * is_word
        features = F.relu(self.conv2(features)) * is_word  # so that padding changes nothing, and never wins
        return self.output(torch.amax(features, dim=2))


@recipe("sentences-attention", data="sentences", data_settings=_SENTENCES, epochs=12, learning_rate=1e-2, target=0.97)
class SentencesAttention(Reader):
    """Gated recurrent units, and additive attention over their states (Bahdanau, Cho & Bengio 2015)."""

    def __init__(self) -> None:
        super().__init__(dimensions=16)
        self.recurrent = nn.GRU(16, 32, batch_first=True)
        self.key, self.query = nn.Linear(32, 16), nn.Linear(16, 1, bias=False)
        self.output = nn.Linear(32, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(input_ids))
        scores = self.query(torch.tanh(self.key(states)))[..., 0].masked_fill(input_ids == 0, -torch.inf)
        weights = torch.softmax(scores, dim=1)
        return self.output((weights[:, None] @ states)[:, 0])
