"""What can go wrong, by name: every error says what was wrong, what was given, what is needed and what to try."""

from __future__ import annotations


class PellucidError(Exception):
    """Base of all errors raised on purpose by Pellucid."""

    def __init__(self, problem: str, *, got: str = "", hint: str = "") -> None:
        self.problem, self.got, self.hint = problem.rstrip("."), got.rstrip("."), hint.rstrip(".")
        parts = [self.problem, f"Got {self.got}" if got else "", f"Try {self.hint}" if hint else ""]
        super().__init__(" ".join(p + "." for p in parts if p))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.got, self.hint)


def _rebuild(kind: type[PellucidError], problem: str, got: str, hint: str) -> PellucidError:
    return kind(problem, got=got, hint=hint)


class InputError(PellucidError, ValueError):
    """The inputs, data or a setting have the wrong type, shape, range or device."""


class ModelCallError(InputError, RuntimeError, TypeError, IndexError, AssertionError):
    """The model can't be called on the inputs. Also of each kind that a model raises, so that callers still catch it."""


class TargetError(PellucidError, ValueError):
    """The target does not select one score per row of the model's output."""


class LayerError(PellucidError, LookupError):
    """No such place in the model, or the place is called more than once, or never."""


class MethodError(PellucidError, LookupError):
    """No such method in the catalogue, or the method's settings are impossible."""


class NeedError(PellucidError, TypeError):
    """The method needs access that this model or call does not give (gradients, layers, data, labels)."""


class ModelModeError(PellucidError, RuntimeError):
    """The model is in training mode, so its answers may be random."""


class WrapperError(PellucidError, TypeError):
    """The model is compiled, scripted, quantised or wrapped in a way that hides its operations."""


class OutputSelectionError(PellucidError, TypeError):
    """The model returns several things and nothing says which one to explain."""


class NumericalError(PellucidError, ArithmeticError):
    """The model's output or an intermediate value is not finite."""


class UnsupportedOperation(PellucidError, NotImplementedError):
    """Operations on the path have no rule in the chosen rule table. All of them are listed."""


class MemoryBudgetError(PellucidError, MemoryError):
    """One row alone does not fit the memory budget."""


class UnsafeFileError(PellucidError, ValueError):
    """A file would run code, or is larger or stranger than allowed."""


class ExtraMissing(PellucidError, ImportError):
    """An optional package is not installed."""
