"""NVIDIA's Alpamayo-R1: a driving model with a Qwen3-VL, an action expert and a flow, from the package alpamayo_r1.

mpsprobe holds nothing of that package. It is imported by name when a target needs it, and `published` says what to
install when it is missing.
"""
