"""Which device, and what is a compile there?"""

from fixshape.backend._protocol import Backend
from fixshape.backend._registry import BACKENDS, get_backend, unavailable_reason

__all__ = ["BACKENDS", "Backend", "get_backend", "unavailable_reason"]
