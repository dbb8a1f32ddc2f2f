"""The detectors: one module for each group of rules. Each function is called with the nodes that it registered for.

`scan.walk` imports every module of this package by name, and each registers its functions in `scan.position.REGISTRY`.
No detector imports that list.
"""
