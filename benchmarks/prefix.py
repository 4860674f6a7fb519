"""Tokens replaced in a causal transformer: from the first changed token on, against whole passes, in seconds and tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import pellucid as px
from benchmarks.timing import Row, compare

WORDS, WIDTH, LAYERS = 1000, 256, 6
LENGTHS = (64, 128)


class Counted(nn.LayerNorm):
    """Notes how many tokens each pass of the network has."""

    seen: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        """As ever."""
        self.seen.append(x.shape[0] * x.shape[1])
        return super().forward(x)


def run() -> list[Row]:
    """One row of a GPT-2-like network of random weights: every token's embedding set to zero, and spans of eight."""
    model, rows = _network(), []
    methods = {
        "each token": px.attribution.FeatureAblation(features="token"),
        "spans of 8": px.attribution.Occlusion(window=(8, WIDTH), stride=(1, WIDTH)),
    }
    for length in LENGTHS:
        ids = torch.randint(1, WORDS, (1, length), generator=torch.Generator().manual_seed(1))
        for name, method in methods.items():
            ours, whole = (_way(model, ids, method, plan) for plan in (None, False))
            share = _tokens(ours) / _tokens(whole)
            task = f"{LAYERS} layers of width {WIDTH}, {length} tokens, {name}: {share:.0%} of the tokens run"
            rows.append(compare(task, ours, whole, within=1e-4))
    return rows


def _network() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_positions": max(LENGTHS), "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, bos_token_id=0, eos_token_id=0, **sizes))
    model.transformer.ln_f = Counted(WIDTH)
    return model.eval()


def _way(model: nn.Module, ids: Tensor, method: px.Method, plan: bool | None) -> Callable[[], Tensor]:
    subject = px.Subject(model, output="logits", plan=plan)
    return lambda: px.explain(subject, ids, method, target=lambda out: out[:, -1, 7], layer="transformer.wte").values


def _tokens(way: Callable[[], Tensor]) -> int:
    """How many tokens the network is run on; the first call also measures what a job takes."""
    way()
    Counted.seen.clear()
    way()
    return sum(Counted.seen)
