"""NVIDIA's Alpamayo-R1: a driving model of a Qwen3-VL, an action expert and a flow, from the package alpamayo_r1.

Nothing of that package is here. It is found by its name when a target needs it, and `package` says what to
install when it is not there.
"""
