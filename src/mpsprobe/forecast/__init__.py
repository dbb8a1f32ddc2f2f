"""Forecast memory and time of a target on hardware that is not at hand, from its recorded or predicted op uses.

docs/forecast.md states the method and its limits, docs/forecast-terms.md its constants.
"""

from mpsprobe.forecast.build import ForecastOptions, build

__all__ = ["ForecastOptions", "build"]
