"""Adopts the shipped suite, as any repository would: one line."""

from mpsprobe.suite import *  # noqa: F403
