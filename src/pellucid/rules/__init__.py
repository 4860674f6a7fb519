"""Which logic imitates the network?"""

from pellucid.contract.method import gather

__all__ = gather(__name__, __path__, globals())
