"""Made results of every form, and texts that try to break out of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.contract import (
    Attribution,
    Context,
    Examples,
    Explanation,
    Measure,
    Rules,
    RuleStructure,
    Semantics,
    Text,
)

PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<svg/onload=alert(1)>",
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "javascript:alert(1)",
    "</style><script>alert(1)</script>",
    "</title><iframe src=http://x.example></iframe>",
    "<a href=http://x.example>free</a>",
    "{{ 7 * 7 }}{% raw %}<b>",
    "-->\u202e<object data=x>\u2066\x1b[31m\x00\u2028<!--",
    "<meta http-equiv=refresh content='0;url=http://x.example'>$\\frac{$",
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sentences(RuleStructure):
    """A structure that isn't a tree."""

    kind: ClassVar[str] = "test-sentences"
    lines: tuple[str, ...] = ("If a, then b.",)

    def predict(self, inputs: Tensor) -> Tensor:
        return torch.zeros(len(inputs), dtype=torch.long)

    def size(self) -> dict[str, int]:
        return {"rules": len(self.lines)}

    def text(self, features: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
        return [f"{line} {' '.join(features)} {' '.join(classes)}" for line in self.lines]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stump(RuleStructure):
    """A tree with one test: left says class 0, right says class 1."""

    kind: ClassVar[str] = "test-stump"
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    rows: Tensor
    shape: tuple[int, ...] = (2,)

    def predict(self, inputs: Tensor) -> Tensor:
        return (inputs[:, 0] > self.threshold[0]).long()

    def size(self) -> dict[str, int]:
        return {"rules": 2, "depth": 1}

    def text(self, features: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
        return [f"If {features[0] if features else 'input 0'} is low.", "Otherwise."]


def stump() -> Stump:
    return Stump(
        feature=torch.tensor([0, -1, -1]),
        threshold=torch.tensor([1.5, 0.0, 0.0]),
        left=torch.tensor([1, -1, -1]),
        right=torch.tensor([2, -1, -1]),
        value=torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]]),
        rows=torch.tensor([10, 5, 5]),
    )


def images(word: str = "cat", rows: int = 2) -> Attribution:
    return Attribution(
        values=noise(rows, 1, 6, 6),
        target=torch.zeros(rows, dtype=torch.long),
        facts={"relative_gap": torch.full((rows,), 0.4)},
        source={"method": "integrated-gradients", "settings": {"note": word}, "model": word, "seed": 0},
        context=Context(
            inputs=torch.rand(rows, 1, 6, 6), output=torch.tensor([[3.0, 0.0]]).repeat(rows, 1), classes=(word, "dog")
        ),
    )


def effects(word: str = "steep") -> Attribution:
    """Curves over two columns, of which the second has a value less; two rows that share them."""
    alike = lambda *lines: torch.tensor(lines).expand(2, 2, 3).clone()  # noqa: E731
    return Attribution(
        values=torch.tensor([[-2.0, 0.5], [1.5, -0.5]]),
        facts={"additive_share": torch.tensor([0.8, 0.8]), "sampling_error": torch.tensor([0.4, 0.4])},
        parts={
            "grid": alike([0.0, 1.0, 4.0], [5.0, 7.0, 7.0]),
            "curve": alike([-2.0, 0.0, 3.0], [0.5, -0.5, -0.5]),
            "curve_error": alike([0.1, 0.0, 0.4], [0.0, 0.0, 0.0]),
            "density": alike([0.25, 0.5, 0.25], [0.5, 0.5, 0.0]),
        },
        source={"method": "pdp", "settings": {}},
        context=Context(features=(word, "gentle"), inputs=torch.tensor([[0.0, 5.0], [2.5, 7.0]])),
    )


def variance(word: str = "wide") -> Attribution:
    """Shares of a variance over three columns, two rows of one score and one of another."""
    total, first = [[0.5, 0.7, 0.1]] * 2 + [[0.0, 1.0, 0.0]], [[0.2, 0.5, 0.0]] * 2 + [[0.0, 1.0, 0.0]]
    pair = torch.zeros(3, 3, 3)
    pair[:2, 0, 1] = pair[:2, 1, 0] = 0.2
    return Attribution(
        values=torch.tensor(total),
        error=torch.full((3, 3), 0.01),
        target=torch.tensor([0, 0, 1]),
        facts={"standard_error": torch.full((3,), 0.01), "correlation": torch.full((3,), 0.6)},
        parts={"first": torch.tensor(first), "pair": pair, "pair_error": torch.full((3, 3, 3), 0.001)},
        source={"method": "sobol-indices", "settings": {}},
        context=Context(features=(word, "b", "c"), classes=("yes", "no")),
    )


def forms(word: str = "cat") -> dict[str, Explanation]:
    """A result of every form and shape, with `word` in every field that holds text."""
    names = Context(inputs=noise(2, 3), output=noise(2, 2), classes=(word, word + "2"), features=(word, word, word))
    source = {"method": word, "settings": {word: word}, "layer": word, "model": word, "versions": {word: word}}
    tokens = Context(inputs=torch.tensor([[5, 6, 7]]), output=noise(1, 2), classes=(word, "x"), features=(word,) * 3)
    text = {"source": source, "context": names}
    tree = Rules(
        structure=stump(), fidelity=0.9, source=source, context=Context(classes=(word, "b"), features=(word, word))
    )
    return {
        "images": images(word),
        "table": Attribution(values=noise(2, 3), target=torch.zeros(2, dtype=torch.long), **text),
        "tokens": Attribution(values=noise(1, 3, 4), source=source, context=tokens),
        "heat": Attribution(values=noise(2, 4, 5), **text),
        "volume": Attribution(values=noise(2, 2, 3, 4, 5)),
        "effects": effects(word),
        "variance": variance(word),
        "overall": Attribution(values=noise(3), **text),
        "several": Attribution(values={word: noise(2, 3), "b": noise(2, 1, 4, 4)}, **text),
        "examples": Examples(
            items=torch.tensor([[0, 1], [1, 0]]), labels=torch.tensor([[0, 1], [1, 0]]), role=word, **text
        ),
        "examples-rows": Examples(
            items=torch.tensor([[0, 1], [1, 0]]), rows=noise(2, 2, 3), weights=noise(2, 2), role=word, **text
        ),
        "tree": tree,
        "sentences": Rules(structure=Sentences(lines=(word,)), fidelity=float("nan"), **text),
        "one": Measure(values=torch.tensor([0.5]), unit=word, better="higher", **text),
        "bars": Measure(values=noise(3), unit=word, **text),
        "many": Measure(values=noise(60), unit=word, **text),
        "curves": Measure(values=noise(3, 9), unit=word, **text),
        "surface": Measure(values=noise(20, 9), unit=word, **text),
        "gallery": Semantics(units=(1, 2), images=torch.rand(2, 1, 4, 4), labels=(word, word), scores=noise(2), **text),
        "albums": Semantics(units=(1, 2), images=torch.rand(2, 3, 1, 4, 4), **text),
        "scores": Semantics(units=(1, 2), scores=noise(2, 3), labels=(word, word, word), **text),
        "named": Semantics(units=(1, 2), labels=(word, word), **text),
        "text": Text(sentences=(word, "Second."), evidence=(word,), **text),
        "silent": Text(),
    }
