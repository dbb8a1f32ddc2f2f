"""FLOPs of recurrent layers as whole kernels (MPS, cuDNN, oneDNN) and of their cells."""

from __future__ import annotations

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas.registry import OpFamily, formula, numel


@formula(OpFamily.RECURRENT, "lstm", "gru", "rnn_tanh", "rnn_relu", "_lstm_mps", "_cudnn_rnn")
def _layers(use: OpUse) -> int:
    """Count two FLOPs for each weight and each step of every sequence.

    Data and states are `[steps, batch, width]` (or batch first, or packed `[total steps, width]`); the weights are
    the matrices among the parameters. The pointwise work of the gates is small in comparison and not counted.
    """
    x = use.inputs[0]
    steps = numel(x) // x.shape[-1] if x.shape[-1] else 0
    packed = len(x.shape) == 2
    states = 1 if packed else 0  # packed data comes with a tensor of batch sizes
    matrices = [tensor for tensor in use.inputs[1 + states :] if len(tensor.shape) == 2]
    return 2 * steps * sum(map(numel, matrices))


@formula(OpFamily.RECURRENT, "mkldnn_rnn_layer")
def _one_layer(use: OpUse) -> int:
    x = use.inputs[0]
    return 2 * (numel(x) // x.shape[-1]) * sum(map(numel, use.inputs[1:3]))


@formula(OpFamily.RECURRENT, "_thnn_fused_lstm_cell")
def _lstm_cell(use: OpUse) -> int:
    """Count for each element of the state: 4 gates added, 5 activations, 3 products, 1 sum."""
    return 13 * numel(use.inputs[2])


@formula(OpFamily.RECURRENT, "_thnn_fused_gru_cell")
def _gru_cell(use: OpUse) -> int:
    """Count for each element of the state: 3 gates added, 3 activations, 2 products, 2 sums."""
    return 10 * numel(use.inputs[2])
