"""What a method says about itself, once: the card from which catalogue, docs, command line, advice and tests are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid.contract.errors import MethodError

FORMS = ("attribution", "semantics", "rules", "examples", "text", "measure")
SCOPES = ("local", "semi-local", "global")
KINDS = ("method", "model", "training", "tool", "demo", "requirement")

NEEDS = {
    "predictions": "the model's answers alone; any callable will do",
    "gradient": "derivatives of the model: a PyTorch module",
    "layers": "values at places inside the model: a PyTorch module",
    "backward rules": "a rule for each operation between the input and the score",
    "spatial layer": "a layer whose values are laid out as rows, channels, height, width",
    "pooled head": "global average pooling and one linear layer between the feature map and the scores",
    "separate head": "a layer that everything passes through on its way to the scores",
    "Fisher vectors": "a `FisherVectors` pipeline as the model",
    "image": "inputs laid out as rows, channels, height, width",
    "table": "inputs laid out as rows, columns",
    "graph": "inputs laid out as node features (rows, nodes, features) and adjacency (rows, nodes, nodes)",
    "data": "examples given as data=",
    "labels": "examples with their labels, given as data=(X, y)",
    "masks": 'what people marked in each row, given as data={"masks": ...}',
}

CLAIMS = {
    "rowwise": "a row's result does not depend on the other rows of the batch",
    "deterministic": "no random draws at all",
    "seeded": "random draws depend on the seed and the row's content alone",
    "complete": "the values of a row sum to score minus baseline score, up to the reported gap",
    "linear": "the explanation of a weighted sum of models is the weighted sum of explanations",
    "dummy": "an input that the model never reads gets exactly zero",
    "symmetric": "inputs that play the same part get the same value",
    "implementation invariant": "two networks that compute the same function get the same result",
    "spelling invariant": "functional, in-place, reused and module activations give the same result",
    "score scale": "doubling the score doubles the values",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a method says about itself that is not its configuration.

    `name` is the id in the catalogue; `covers` lists further ids that are variants of this method. `taxonomy` places
    the method in each survey's tree, as a path. `claims` switch conformance checks on; `exempt` switches one off with
    the reason. `trial` holds cheap settings for tests; `example` is a line that works.
    """

    name: str
    title: str
    question: str
    form: str
    scope: str
    citation: str
    covers: tuple[str, ...] = ()
    kind: str = "method"
    active: bool = False
    needs: tuple[str, ...] = ("predictions",)
    data_types: tuple[str, ...] = ("any",)
    taxonomy: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[str, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    cost: str = ""
    supports: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise if a word is outside the vocabulary, so that a typing slip can't hide a check."""
        for word, allowed in ((self.form, FORMS), (self.scope, SCOPES), (self.kind, KINDS)):
            if word not in allowed:
                raise MethodError(f"The card of {self.name!r} must use one of {allowed}", got=repr(word))
        for words, known in ((self.needs, NEEDS), (self.claims, CLAIMS)):
            for word in words:
                if word not in known:
                    raise MethodError(f"The card of {self.name!r} must use one of {tuple(known)}", got=repr(word))
        if self.question[-1:] != "?" or not self.citation:
            raise MethodError(f"The card of {self.name!r} must end its question with '?' and name a citation")

    def as_dict(self) -> dict[str, Any]:
        """The card as plain JSON data; `id` is the name."""
        return {
            "id": self.name,
            "kind": self.kind,
            "covers": list(self.covers),
            "title": self.title,
            "question": self.question,
            "form": self.form,
            "scope": self.scope,
            "active": self.active,
            "needs": list(self.needs),
            "data_types": list(self.data_types),
            "taxonomy": dict(self.taxonomy),
            "claims": list(self.claims),
            "exempt": dict(self.exempt),
            "cost": self.cost,
            "supports": list(self.supports),
            "limits": list(self.limits),
            "citation": self.citation,
        }
