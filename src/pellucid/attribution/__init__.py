"""How much did each part matter?"""

from pellucid.contract.method import gather

__all__ = gather(__name__, __path__, globals())
