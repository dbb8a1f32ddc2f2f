"""Read the texts of MPSGraph's own checks: the op, the operand, its shape and its dtype.

MPSGraph builds a graph of MLIR ops (`mps.multiply`), whose verifier ends the process with one sentence; a failed
assertion inside it names the source file. What each of them refused stands in the sentence, not in the message's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mpsprobe.knowledge.error_texts import Advice

#: What PyTorch and users call the graph's ops; the first beginning that fits counts.
_OPS = {
    "reduction_min": "min or amin", "reduction_max": "max or amax", "reduction_sum": "sum",
    "reduction_prod": "prod", "reduction_mean": "mean", "reduction_arg": "argmax or argmin", "reduction": "a reduction",
    "multiply": "a product of elements", "add": "an addition", "subtract": "a subtraction",
    "divide": "a division", "select": "torch.where or a mask", "matmul": "a matrix product",
    "reshape": "view, reshape or flatten", "broadcast": "expand, or a broadcast", "transpose": "transpose or permute",
    "permute": "transpose or permute", "concat": "torch.cat or stack", "slice": "an index or slice",
    "strided_slice": "an index or slice", "gather": "gather, or an index", "scatter": "scatter or index_put",
    "conv_": "a convolution", "pooling": "a pooling layer", "pad": "pad", "softmax": "softmax", "sort": "sort",
    "top_k": "topk", "normalization": "a normalisation", "cumulative": "cumsum or cumprod",
    "squeeze": "squeeze", "expand_dims": "unsqueeze", "lstm": "an LSTM", "gru": "a GRU", "one_hot": "one_hot",
    "equal": "==", "not_equal": "!=", "less": "<", "greater": ">", "power": "pow", "minimum": "minimum or clamp",
    "maximum": "maximum or clamp", "clamp": "clamp", "cast": "a cast (.to)",
}  # fmt: skip

#: MLIR's names of dtypes.
_DTYPES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "i1": "bool",
    "complex<f32>": "complex64", "complex<f16>": "complex32", "complex<f64>": "complex128",
    "index": "an index",
}  # fmt: skip

#: What the beginning of a file's name inside MPSGraph says of the op.
_FILES = {
    "GPUConv": "convolution", "GPUReduction": "sum, mean, max or another reduction", "GPUMatMul": "matrix product",
    "GPUGather": "gather or an index", "GPUScatter": "scatter or index_put", "GPUPool": "pooling",
    "GPUNorm": "normalisation", "GPUSort": "sort or topk", "GPUTranspose": "transpose", "GPURNN": "LSTM or GRU",
    "GPUFourier": "a Fourier transform",
}  # fmt: skip

_OPERAND = re.compile(
    r"(?P<which>operand|result) #(?P<number>\d+) must be (?P<wanted>.+?),? but got '?(?P<got>[^'\n]+)"
)
_TYPE = re.compile(r"(?:tensor|memref)<(?P<shape>(?:(?:\d+|\?)x|\*x)*)(?P<element>[a-z]+\d*(?:<\w+>)?)")

_ONCE = "python -X faulthandler shows the line of the program."
_CPU = "Run the step on the CPU once"


def advice(message: str, values: Mapping[str, str]) -> Advice | None:
    """Return the meaning and the fix of a check of MPSGraph, made from what its text says; None for other messages.

    Args:
        message: The id of the message.
        values: The named parts of the text: `kernel` and `what` of a graph's op, `file` of an assertion.
    """
    if message == "graph-verification":
        return _verified(values.get("kernel", ""), values.get("what", ""))
    if message == "assertion-in-mpsgraph":
        return _asserted(values.get("file", ""), values.get("function", ""))
    return None


def _verified(kernel: str, what: str) -> Advice:
    name = kernel.partition(".")[2]
    called = next((words for begin, words in _OPS.items() if name.startswith(begin)), "")
    op = f"{kernel} ({called})" if called else kernel
    operand = _OPERAND.search(what)
    if operand:
        return _refused_type(op, operand)
    if re.search("broadcast|compatible shapes|mismatch|must match|channels|sizes", what):
        return (
            f"MPSGraph was given tensors whose shapes do not go together for {op}, and ends the process. Either "
            "the program's shapes differ (the CPU raises there), or torch's MPS code made a wrong "
            "shape: met with recurrent layers and with inputs whose sizes change from call to call.",
            f"{_CPU}: a mistake of the program raises with both sizes, and is to be corrected there. If the CPU is "
            f"content, it is torch's: keep that layer on the CPU, or try another torch release. {_ONCE}",
        )
    if re.search(r"(?:result|output|target) shape|number of elements|element count", what):
        return (
            f"MPSGraph was asked to give a tensor a shape that it cannot have ({op}): the sizes do not multiply to "
            "the number of its elements. Where the program asks for no such shape itself, torch's MPS code of an op "
            "made it (met in the backward pass of a 3-D transposed convolution in development).",
            f"{_CPU}: a wrong view or reshape raises there. If the CPU is content: that layer on the CPU, with its "
            f"backward pass, or a newer torch. {_ONCE}",
        )
    if re.search(r"\bax[ei]s|\bdim(?:ension)?s?\b|\brank", what):
        return (
            f"MPSGraph refuses a dimension or a number of dimensions of {op}, as the text says, and ends the process: "
            "the program names one that the tensor does not have, or torch's MPS code counts them wrongly.",
            f"{_CPU}: a wrong dim raises there. If the CPU is content: flatten the tensor to 4 dimensions or fewer "
            f"before that op, keep it on the CPU, or try another torch release. {_ONCE}",
        )
    return (
        f"MPSGraph checked {op} when it built its graph, refuses it as the text says, and ends the process.",
        f"{_CPU}: a mistake of the program raises there. If the CPU is content: that op on the CPU, or with "
        f".clone() of its input; another torch release. {_ONCE}",
    )


def _refused_type(op: str, operand: re.Match[str]) -> Advice:
    number = operand["number"]
    which = "result" if operand["which"] == "result" else "input"
    found = _TYPE.search(operand["got"])
    element = found["element"] if found else ""
    dtype = _dtype(element)
    sizes = found["shape"].strip("x").replace("x", ", ") if found else ""
    shape = "" if not found or "*" in sizes else f" of shape ({sizes})" if sizes else " of one number"
    given = f"{dtype}{shape}" if dtype else "another kind of tensor"
    means = (
        f"MPSGraph's op {op} does not take the dtype of its {which} (#{number}): it got {given}. The shape is not to "
        "blame. torch gave it to MPSGraph unchecked, which ends the process."
    )
    wanted = operand["wanted"]
    if re.search(r"\b\dD\b|\brank", wanted):
        return (
            f"MPSGraph's op {op} does not take the number of dimensions, or the dtype, of its {which} (#{number}): it "
            f"got {given} and wants: {wanted}.",
            f"{_CPU}: a mistake of the program raises there. If the CPU is content: reshape or cast the tensor to "
            f"that before the op, or keep it on the CPU. {_ONCE}",
        )
    if element.startswith("complex"):
        return (
            f"{means} Few ops of MPSGraph take complex numbers.",
            "That op on real numbers (torch.view_as_real(x), x.real and x.imag, x.abs()), or on the CPU; newer "
            f"releases of torch raise a Python error, or compute it, in many of these ops. {_ONCE}",
        )
    target = "the dtype that it names"
    if re.search(r"\b1-bit|\bi1\b|\bbool", wanted):
        target = "torch.bool"
    elif "complex" in wanted:
        target = "torch.complex64"
    elif "float" in wanted or element == "f64":
        target = "torch.float32"
    elif re.search(r"\bint", wanted):
        target = "an integer dtype (torch.int32 or int64)"
    return (
        f"{means} It wants: {wanted}.",
        f"Cast what goes into that op to {target}, or run the op on the CPU; try another torch release. {_ONCE}",
    )


def _dtype(element: str) -> str:
    if element in _DTYPES:
        return _DTYPES[element]
    number = re.fullmatch(r"(?P<kind>s?i|ui)(?P<bits>\d+)", element)
    if number:
        return f"{'uint' if number['kind'] == 'ui' else 'int'}{number['bits']}"
    return element


def _asserted(file: str, function: str) -> Advice:
    kind = next((words for begin, words in _FILES.items() if file.startswith(begin)), "")
    told = (
        f"The file {file} holds the code of one kind of op: {kind}"
        if kind
        else f"The file {file} and the function {function} serve ops of many kinds, so they do not tell which it was"
    )
    return (
        "A check inside Apple's MPSGraph (or Core ML) failed and ended the process; Python cannot catch it. "
        f"{told}. The condition in brackets is what it wanted.",
        f"{_ONCE} That op on the CPU, or with the tensor in 4 dimensions or fewer, float32 and "
        ".contiguous(); a newer torch and macOS, which replace more and more of these kernels.",
    )
