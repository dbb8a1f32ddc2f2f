"""Decide the branch of a condition that a model on MPS takes: true, false, or unknown.

Code behind `if torch.cuda.is_available():` never runs on a Mac, so nothing in it is a hazard there. Conditions are
decided for tensors on MPS: `x.device.type == "mps"` is true, `device == "cpu"` is false.
"""

from __future__ import annotations

import ast
import re

from mpsprobe.scan.lookup import cuda_only
from mpsprobe.scan.names import Names, Scope

_CUDA = re.compile(r"cuda(:\d+)?$")
_OTHER_DEVICES = re.compile(r"(xpu|npu|hpu|mlu|musa|xla|tpu|hip|rocm|mtia|sdaa|privateuseone|meta)(:\d+)?$")
_NEVER = re.compile(
    r"(is|has)_.*(cuda|flash|triton|mamba|causal_conv1d|apex|fla|xpu|npu|hpu|mlu|musa|xla|tpu|rocm|neuron|nvidia)"
    r".*_available$|is_(cuda|rocm|hip|xpu|npu)(_platform)?$"
)
_TRUE_CALLS = {
    "torch.backends.mps.is_available",
    "torch.backends.mps.is_built",
    "torch.mps.is_available",
    "torch.accelerator.is_available",
}
_FALSE_CALLS = {
    "torch.cuda.is_available",
    "torch.cuda.is_initialized",
    "torch.cuda.is_bf16_supported",
    "torch.cuda.device_count",
    "torch.backends.cuda.is_built",
    "torch.backends.cudnn.is_available",
    "torch.xpu.is_available",
    "torch.distributed.is_nccl_available",
}
_ALWAYS_THERE = re.compile(r"is_(torch|accelerate|safetensors|tokenizers|mps|torch_mps)_available$")
_FALSE_NAMES = {"torch.version.cuda", "torch.version.hip", "typing.TYPE_CHECKING", "TYPE_CHECKING"}
#: Names of flags for CUDA and for several GPUs (a Mac has one).
_FLAG = re.compile(r"(^|_)cuda($|_)|^use_?cuda$|^(use_)?(model_parallel|multi_gpu)$", re.IGNORECASE)
_NO_FLAG = re.compile(r"(^|_)no_?cuda$", re.IGNORECASE)
#: Names of attention that needs flash_attn; transformers raises earlier without it.
_FLASH = re.compile(r"flash_attention_[23]$|flash_attn")
_NEW_ENOUGH = {"get_autocast_dtype", "mps", "compile", "amp"}  #: names of torch that 2.4 and later have
_DEPTH = 8


def is_cuda_text(text: object) -> bool:
    """Return whether a value is a device string such as `"cuda"` or `"cuda:1"`."""
    return isinstance(text, str) and _CUDA.match(text) is not None


class Truth:
    """Decide conditions of one module for a Mac whose tensors are on MPS.

    Attributes:
        learnt: The values of module-level names on a Mac, such as `HAS_FLASH` after a failed import; None for a
            name whose import fails.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self.learnt: dict[str, ast.expr | None] = {}

    def of(self, test: ast.expr, scope: Scope, depth: int = 0) -> bool | None:
        """Return the truth of `test` on a Mac; None when it cannot be decided."""
        if depth > _DEPTH:
            return None
        if isinstance(test, ast.Constant):
            return bool(test.value)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return _negated(self.of(test.operand, scope, depth + 1))
        if isinstance(test, ast.BoolOp):
            answers = [self.of(value, scope, depth + 1) for value in test.values]
            return _all(answers) if isinstance(test.op, ast.And) else _any(answers)
        if isinstance(test, ast.Compare):
            return self._compare(test, scope, depth) if len(test.ops) == 1 else None
        if isinstance(test, ast.Call):
            return self._call(test, scope, depth)
        if isinstance(test, ast.IfExp):
            value = self.choose(test, scope, depth)
            return None if value is None else self.of(value, scope, depth + 1)
        if isinstance(test, (ast.Name, ast.Attribute)):
            return self._name(test, scope, depth)
        return None

    def choose(self, node: ast.IfExp, scope: Scope, depth: int = 0) -> ast.expr | None:
        """Return the arm of a conditional expression that a Mac takes; None when it cannot be decided."""
        answer = self.of(node.test, scope, depth + 1)
        return None if answer is None else node.body if answer else node.orelse

    def is_empty(self, iterated: ast.expr) -> bool:
        """Return whether a loop over this iterable runs zero times on a Mac: `range(torch.cuda.device_count())`."""
        return (
            isinstance(iterated, ast.Call)
            and isinstance(iterated.func, ast.Name)
            and iterated.func.id == "range"
            and len(iterated.args) == 1
            and self._counts_cuda(iterated.args[0])
        )

    def value(self, node: ast.expr, scope: Scope) -> ast.expr:
        """Return the value of a name or conditional expression on a Mac, as an expression; `node` when unknown."""
        for _ in range(_DEPTH):
            after: ast.expr | None = None
            if isinstance(node, ast.IfExp):
                after = self.choose(node, scope)
            elif isinstance(node, ast.Name):
                after = self.learnt.get(node.id) or scope.only(node.id)
            if after is None:
                return node
            node = after
        return node

    def _name(self, node: ast.Name | ast.Attribute, scope: Scope, depth: int) -> bool | None:
        name = self._names.of(node)
        if name in _FALSE_NAMES:
            return False
        last = node.attr if isinstance(node, ast.Attribute) else node.id
        if isinstance(node, ast.Name):
            if last in self.learnt:
                known = self.learnt[last]
                return False if known is None else self.of(known, scope, depth + 1)
            value = scope.only(last)
            if value is not None:
                answer = self.of(value, scope, depth + 1)
                if answer is not None:
                    return answer
        if _NO_FLAG.search(last):
            return True
        return False if _FLAG.search(last) else None

    def _call(self, node: ast.Call, scope: Scope, depth: int) -> bool | None:
        name = self._names.of(node.func)
        last = name.rpartition(".")[2] or (node.func.attr if isinstance(node.func, ast.Attribute) else "")
        if name in _TRUE_CALLS or _ALWAYS_THERE.match(last):
            return True
        if name in _FALSE_CALLS or _NEVER.match(last):
            return False
        if last == "is_available" and re.search(r"\b(cuda|npu|xpu|musa|mlu|hpu)\.is_available$", name):
            return False
        first = node.args[0] if node.args else None
        if first is None:
            return None
        if last == "hasattr" and self._names.of(first) == "torch" and len(node.args) == 2:
            return True if _text(node.args[1]) in _NEW_ENOUGH else None
        if last == "find_spec" and isinstance(first, ast.Constant) and isinstance(first.value, str):
            return False if cuda_only(first.value) else None
        if last == "bool":
            return self.of(first, scope, depth + 1)
        if last == "startswith" and isinstance(node.func, ast.Attribute) and isinstance(first, ast.Constant):
            return self._equals(node.func.value, first.value, scope)
        if last in ("all", "any") and isinstance(first, (ast.Tuple, ast.List)):
            answers = [self.of(element, scope, depth + 1) for element in first.elts]
            return _all(answers) if last == "all" else _any(answers)
        if last in ("all", "any") and isinstance(first, (ast.GeneratorExp, ast.ListComp)):
            return self.of(first.elt, scope, depth + 1)
        return None

    def _compare(self, node: ast.Compare, scope: Scope, depth: int) -> bool | None:
        left, operator, right = node.left, node.ops[0], node.comparators[0]
        if isinstance(operator, (ast.Eq, ast.NotEq)):
            if isinstance(left, ast.Constant):
                left, right = right, left
            equal = self._equals_expr(left, right, scope)
            return equal if isinstance(operator, ast.Eq) else _negated(equal)
        if isinstance(operator, (ast.In, ast.NotIn)):
            inside = self._inside(left, right, scope)
            return inside if isinstance(operator, ast.In) else _negated(inside)
        if isinstance(operator, (ast.Is, ast.IsNot)):
            if not (isinstance(right, ast.Constant) and right.value is None):
                return None
            absent = self._is_none(left, scope, depth)
            return absent if isinstance(operator, ast.Is) else _negated(absent)
        if isinstance(operator, (ast.Gt, ast.GtE)) and self._counts_cuda(left):
            threshold = right.value if isinstance(right, ast.Constant) else 1
            if isinstance(threshold, int):
                return threshold < 0 if isinstance(operator, ast.Gt) else threshold <= 0
        return None

    def _counts_cuda(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Call):
            return False
        called = self._names.of(node.func)
        if called == "len" and node.args:
            return self._names.of(node.args[0]) == "torch.cuda.default_generators"
        return called == "torch.cuda.device_count"

    def _is_none(self, node: ast.expr, scope: Scope, depth: int) -> bool | None:
        if isinstance(node, ast.Call) and self._names.of(node.func).endswith("find_spec"):
            return _negated(self._call(node, scope, depth))
        if self._names.of(node) in _FALSE_NAMES:
            return True
        if isinstance(node, ast.Name) and node.id in self.learnt:
            value = self.learnt[node.id]
            return value is None or (isinstance(value, ast.Constant) and value.value is None)
        return None

    def _equals_expr(self, left: ast.expr, right: ast.expr, scope: Scope) -> bool | None:
        if self._counts_cuda(left) and isinstance(right, ast.Constant):
            return right.value == 0
        if isinstance(right, ast.Call) and self._names.of(right.func) == "torch.device" and right.args:
            right = right.args[0]
        return self._equals(left, right.value, scope) if isinstance(right, ast.Constant) else None

    def _equals(self, left: ast.expr, text: object, scope: Scope) -> bool | None:
        """Return whether `left`, on a Mac, equals or begins with `text`; None when that cannot be decided."""
        if not isinstance(text, str):
            return None
        said = self._platform(left)
        if said is not None:
            return said.startswith(text)
        if is_cuda_text(text) or _OTHER_DEVICES.match(text) or _FLASH.match(text) or text == "nccl":
            return False
        if not self._is_device(left, scope):
            return None
        if text.startswith("mps"):
            return True
        return False if text.startswith("cpu") else None

    def _inside(self, left: ast.expr, right: ast.expr, scope: Scope) -> bool | None:
        if isinstance(left, ast.Constant):  # "cuda" in str(device)
            if isinstance(right, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
                return None
            return self._equals(right, left.value, scope)
        if isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            return _any([self._equals_expr(left, element, scope) for element in right.elts])
        return None

    def _platform(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Call):
            return {"platform.system": "Darwin", "platform.machine": "arm64"}.get(self._names.of(node.func))
        return {"sys.platform": "darwin", "os.name": "posix"}.get(self._names.of(node))

    def _is_device(self, node: ast.expr, scope: Scope) -> bool:
        """Return whether the name of an expression, or of its only value, is that of a device or a device type."""
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
                return self._is_device(node.args[0], scope)
            return False
        if isinstance(node, ast.Attribute):
            if node.attr == "type":
                return "device" in ast.unparse(node.value)
            return node.attr in ("device", "device_type")
        if isinstance(node, ast.Name):
            value = scope.only(node.id)
            if value is not None and not isinstance(value, ast.Name):
                return self._is_device(value, scope) or "device" in node.id
            return "device" in node.id
        return False


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _all(answers: list[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True


def _any(answers: list[bool | None]) -> bool | None:
    return True if True in answers else None if None in answers else False


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
