"""The checks, by theme: what a result holds, what a call leaves behind, what is refused, what a card claims."""

from pellucid.testing.checking import arguments, cards, claims, models, results, traces

__all__ = ["arguments", "cards", "claims", "models", "results", "traces"]
