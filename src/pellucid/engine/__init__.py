"""Seeing inside any nn.Module without leaving a trace."""

from pellucid.engine.answer import explain
from pellucid.engine.ask import Ask, predict
from pellucid.engine.subject import Subject, as_subject

__all__ = ["Ask", "Subject", "as_subject", "explain", "predict"]
