"""What a method is: card, method, explanation, errors."""

from pellucid.contract.card import CLAIMS, FORMS, NEEDS, SCOPES, Card
from pellucid.contract.explanation import (
    Attribution,
    Context,
    Examples,
    Explanation,
    Measure,
    Rules,
    RuleStructure,
    Semantics,
    Text,
    tensors,
)
from pellucid.contract.method import Method, as_method, by_name, from_config, gather, registered

__all__ = [
    "CLAIMS",
    "FORMS",
    "NEEDS",
    "SCOPES",
    "Attribution",
    "Card",
    "Context",
    "Examples",
    "Explanation",
    "Measure",
    "Method",
    "RuleStructure",
    "Rules",
    "Semantics",
    "Text",
    "as_method",
    "by_name",
    "from_config",
    "gather",
    "registered",
    "tensors",
]
