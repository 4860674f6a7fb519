"""How far can an explanation be believed? Measurements of another method, which they hold in their field `of`."""

from pellucid.contract.method import gather

__all__ = gather(__name__, list(__path__), globals())
