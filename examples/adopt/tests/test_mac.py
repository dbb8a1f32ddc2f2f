"""Does our model still run on a Mac? The suite of mpsprobe, adopted in one line."""

from mpsprobe.suite import *  # noqa: F403
