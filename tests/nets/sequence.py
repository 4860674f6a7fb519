"""Networks that read sequences: recurrent, attention, encoder, and BERT- and GPT-like ones by transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nets.stock import settle

WIDTH, WORDS, LENGTH, CLASSES = 8, 11, 5, 3


class Recurrent(nn.Module):
    """Last step of an LSTM, GRU or RNN, both directions if asked, then a linear head."""

    def __init__(self, kind: str = "LSTM", two_ways: bool = False, layers: int = 1, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(WIDTH, 6, layers, batch_first=True, bidirectional=two_ways, **options)
        self.head = nn.Linear(12 if two_ways else 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Cells(nn.Module):
    """An LSTM cell called in a loop: a reused module."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(WIDTH, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.head(h)


class AttentionBlock(nn.Module):
    """Multi-head attention with averaged weights asked for, residual and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x)
        return self.head(self.norm(x + y).mean(1))


class Encoder(nn.Module):
    """nn.TransformerEncoder with a boolean or integer padding mask as second input."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, norm_first=norm_first, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, padded: Tensor | None = None) -> Tensor:
        hidden = None if padded is None else padded.bool()
        return self.head(self.body(x, src_key_padding_mask=hidden)[:, 0])


class Tokens(nn.Module):
    """Token ids, embedding, encoder: inputs without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(WORDS, WIDTH), Encoder()

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.encoder(self.embedding(ids), None if mask is None else mask == 0)


FLOAT: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: settle(Recurrent("LSTM")),
    "lstm-two-ways": lambda: settle(Recurrent("LSTM", True, 2)),
    "lstm-projected": lambda: settle(Recurrent("LSTM", proj_size=0)),
    "gru": lambda: settle(Recurrent("GRU", layers=2)),
    "gru-two-ways": lambda: settle(Recurrent("GRU", True)),
    "rnn": lambda: settle(Recurrent("RNN")),
    "rnn-relu": lambda: settle(Recurrent("RNN", nonlinearity="relu")),
    "cells": lambda: settle(Cells()),
    "attention": lambda: settle(AttentionBlock()),
    "encoder": lambda: settle(Encoder()),
    "encoder-norm-first": lambda: settle(Encoder(True)),
}


def sentences(rows: int = 3, seed: int = 2) -> Tensor:
    """Sequences of float vectors."""
    return torch.randn(rows, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def token_ids(rows: int = 3, seed: int = 2) -> Tensor:
    """Sequences of token ids."""
    return torch.randint(1, WORDS, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))


def bert(attention: str = "eager") -> nn.Module:
    """A BERT-like classifier, two layers of width 8. `attention`: "eager" or "sdpa"."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, num_labels=CLASSES, attn_implementation=attention,
    )  # fmt: skip
    return settle(BertForSequenceClassification(config))


def gpt(attention: str = "eager") -> nn.Module:
    """A GPT-2-like language model, two layers of width 8. `attention`: "eager" or "sdpa"."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=8, n_layer=2, n_head=2, attn_implementation=attention,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return settle(GPT2LMHeadModel(config))
