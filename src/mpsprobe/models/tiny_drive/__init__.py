"""The default target: a driving model like Alpamayo-R1, tiny, with random weights that mpsprobe makes.

It has the inputs, the outputs and each custom part of the large model, written for mpsprobe after the paper
(https://arxiv.org/abs/2511.00088) and standard methods: a Qwen3-VL from transformers, ego history as trajectory
tokens, a reasoning trace, an action expert that attends to the VLM's KV cache and is sampled by flow matching, and
a unicycle action space with Cholesky solves. Its weights were never trained: the words of its trace and the path
that it drives mean nothing. It shows whether the arithmetic runs.
"""
