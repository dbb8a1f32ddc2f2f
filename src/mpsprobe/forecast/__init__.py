"""Memory and time of a target on hardware that is not at hand, from its recorded or predicted op uses.

docs/forecast.md says how, with which constants, and what it cannot see.
"""

from mpsprobe.forecast.build import Wish, build

__all__ = ["Wish", "build"]
