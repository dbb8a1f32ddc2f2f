"""The detectors: one module a group of rules, each function shown the nodes that it registered for.

`scan.walk` imports every module of this package by name, and each registers its functions in `registry`; no detector
imports that list.
"""
