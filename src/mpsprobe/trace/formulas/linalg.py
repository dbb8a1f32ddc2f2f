"""FLOPs of matrix decompositions and transforms, by their textbook counts.

The counts are leading terms for real matrices from Golub and Van Loan, *Matrix Computations* (4th ed.): Cholesky
4.2, LU 3.2, triangular 3.1, QR 5.2, SVD 8.6, symmetric eigenproblem 8.3, general eigenproblem 7.5. Iterative
methods (SVD, eigenproblems) depend on the values, so theirs are typical counts. FFTs follow FFTW's convention, 5 N
log2 N for complex and half of it for real data (fftw.org/speed). A complex operation counts as four real ones, as
in a product.
"""

from __future__ import annotations

from math import log2, prod

from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.formulas.registry import OpFamily, formula, is_complex, numel


def _batched(matrix: TensorMeta, once: float) -> int:
    return round(prod(matrix.shape[:-2]) * once * (4 if is_complex(matrix) else 1))


@formula(OpFamily.LINALG, "cholesky", "linalg_cholesky", "linalg_cholesky_ex")
def _cholesky(use: OpUse) -> int:
    """Count n^3 / 3 FLOPs for each matrix of the batch."""
    matrix = use.inputs[0]
    return _batched(matrix, matrix.shape[-1] ** 3 / 3)


@formula(OpFamily.LINALG, "cholesky_solve", "_cholesky_solve_helper")
def _cholesky_solve(use: OpUse) -> int:
    """Count 2 n^2 FLOPs for each right-hand side: two triangular systems."""
    right, factor = use.inputs[:2]
    return _batched(right, 2 * factor.shape[-1] ** 2 * right.shape[-1])


@formula(OpFamily.LINALG, "cholesky_inverse")
def _cholesky_inverse(use: OpUse) -> int:
    """Count 2 n^3 / 3 FLOPs for the inverse of a matrix from its Cholesky factor."""
    matrix = use.inputs[0]
    return _batched(matrix, 2 * matrix.shape[-1] ** 3 / 3)


@formula(OpFamily.LINALG, "linalg_solve_triangular")
def _solve_triangular(use: OpUse) -> int:
    """Count n^2 FLOPs for each right-hand side: the columns, or the rows of a system from the right."""
    factor, right = use.inputs[:2]
    return _batched(
        right, factor.shape[-1] ** 2 * (right.shape[-1] if use.scalars.get("left", True) else right.shape[-2])
    )


@formula(OpFamily.LINALG, "triangular_solve")
def _triangular_solve(use: OpUse) -> int:
    """Count n^2 FLOPs for each right-hand side; the right-hand sides are the first argument."""
    right, factor = use.inputs[:2]
    return _batched(right, factor.shape[-1] ** 2 * right.shape[-1])


@formula(
    OpFamily.LINALG,
    "linalg_lu_factor",
    "linalg_lu_factor_ex",
    "linalg_lu",
    "_linalg_det",
    "_linalg_slogdet",
    "linalg_ldl_factor_ex",
)
def _lu(use: OpUse) -> int:
    """Count k^2 (l - k / 3) with k the shorter side, l the longer: 2 n^3 / 3 for a square; half of it for LDL^T."""
    matrix = use.inputs[0]
    long, short = max(matrix.shape[-2:]), min(matrix.shape[-2:])
    return _batched(matrix, short**2 * (long - short / 3) / (2 if "ldl" in use.op else 1))


@formula(OpFamily.LINALG, "linalg_lu_solve", "linalg_ldl_solve")
def _lu_solve(use: OpUse) -> int:
    """Count 2 n^2 FLOPs for each right-hand side; the right-hand sides are the last input."""
    factor, right = use.inputs[0], use.inputs[-1]
    return _batched(right, 2 * factor.shape[-1] ** 2 * right.shape[-1])


@formula(OpFamily.LINALG, "_linalg_solve_ex", "linalg_solve_ex", "linalg_solve")
def _solve(use: OpUse) -> int:
    """Count the LU decomposition, then 2 n^2 for each right-hand side."""
    matrix, right = use.inputs[:2]
    order = matrix.shape[-1]
    columns = right.shape[-1] if len(right.shape) == len(matrix.shape) else 1
    return _batched(matrix, 2 * order**3 / 3 + 2 * order**2 * columns)


@formula(OpFamily.LINALG, "linalg_inv", "linalg_inv_ex")
def _inverse(use: OpUse) -> int:
    """Count 2 n^3 FLOPs: an LU decomposition and n solutions."""
    matrix = use.inputs[0]
    return _batched(matrix, 2 * matrix.shape[-1] ** 3)


def _reflectors(rows: int, columns: int, count: int) -> float:
    """Count applying k reflectors: 4 m n k - 2 (m + n) k^2 + 4 k^3 / 3 (LAPACK working note 41, appendix C)."""
    return 4 * rows * columns * count - 2 * (rows + columns) * count**2 + 4 * count**3 / 3


@formula(OpFamily.LINALG, "geqrf")
def _geqrf(use: OpUse) -> int:
    """Count 2 n^2 (m - n / 3) for m >= n."""
    rows, columns = use.inputs[0].shape[-2:]
    return _batched(use.inputs[0], _reflectors(rows, columns, min(rows, columns)))


@formula(OpFamily.LINALG, "linalg_qr")
def _qr(use: OpUse) -> int:
    """Count the factorisation, then Q (m x min(m, n), or m x m in mode "complete") from its reflectors."""
    rows, columns = use.inputs[0].shape[-2:]
    short = min(rows, columns)
    mode = use.scalars.get("mode", "reduced")
    width = {"r": 0, "complete": rows}.get(mode, short)
    forming = _reflectors(rows, width, short) if width else 0
    return _batched(use.inputs[0], _reflectors(rows, columns, short) + forming)


@formula(OpFamily.LINALG, "linalg_householder_product")
def _householder_product(use: OpUse) -> int:
    """Count the FLOPs of forming Q from its Householder reflectors, one for each factor in `tau`."""
    matrix, tau = use.inputs[:2]
    return _batched(matrix, _reflectors(matrix.shape[-2], matrix.shape[-1], tau.shape[-1]))


@formula(OpFamily.LINALG, "ormqr")
def _multiply_by_q(use: OpUse) -> int:
    """Count the FLOPs of applying Q, a product of k Householder reflectors, to a matrix of m rows.

    They are 2 k (2 m - k) per column.
    """
    _, tau, other = use.inputs[:3]
    rows, columns = other.shape[-2:]
    if not use.scalars.get("left", True):
        rows, columns = columns, rows
    return _batched(other, 2 * tau.shape[-1] * (2 * rows - tau.shape[-1]) * columns)


@formula(OpFamily.LINALG, "_linalg_svd", "linalg_svd", "linalg_svdvals")
def _svd(use: OpUse) -> int:
    """Count the SVD of Golub and Reinsch, for m >= n.

    It is 14 m n^2 + 8 n^3 with reduced U and V, 4 m^2 n + 8 m n^2 + 9 n^3 with all of U, and 4 m n^2 - 4 n^3
    / 3 for values only.
    """
    matrix = use.inputs[0]
    long, short = max(matrix.shape[-2:]), min(matrix.shape[-2:])
    if use.scalars.get("compute_uv", "svdvals" not in use.op):
        # The default of full_matrices is False in `_linalg_svd` and True in `linalg_svd`.
        if not use.scalars.get("full_matrices", "_linalg_svd" not in use.op):
            return _batched(matrix, 14 * long * short**2 + 8 * short**3)
        return _batched(matrix, 4 * long**2 * short + 8 * long * short**2 + 9 * short**3)
    return _batched(matrix, 4 * long * short**2 - 4 * short**3 / 3)


@formula(OpFamily.LINALG, "_linalg_eigh", "linalg_eigh", "linalg_eigvalsh")
def _eigh(use: OpUse) -> int:
    """Count the symmetric QR algorithm: 9 n^3 with vectors, 4 n^3 / 3 without."""
    matrix = use.inputs[0]
    vectors = use.scalars.get("compute_v", "eigvalsh" not in use.op)
    return _batched(matrix, (9 if vectors else 4 / 3) * matrix.shape[-1] ** 3)


@formula(OpFamily.LINALG, "linalg_eig")
def _eig(use: OpUse) -> int:
    """Count 25 n^3 FLOPs: the QR algorithm with vectors."""
    return _batched(use.inputs[0], 25 * use.inputs[0].shape[-1] ** 3)


@formula(OpFamily.LINALG, "linalg_eigvals", "_linalg_eigvals")
def _eigvals(use: OpUse) -> int:
    """Count 10 n^3 FLOPs: the QR algorithm without vectors."""
    return _batched(use.inputs[0], 10 * use.inputs[0].shape[-1] ** 3)


@formula(OpFamily.LINALG, "_fft_c2c", "_fft_r2c", "_fft_c2r")
def _fft(use: OpUse) -> int | None:
    """Count 5 N log2 N for each transform of N points over `dim`; half for real data, whose real side has N points."""
    if not use.outputs:
        return None
    data = use.outputs[0] if "c2r" in use.op else use.inputs[0]
    points = prod(data.shape[dim] for dim in use.scalars["dim"])
    if points < 2:
        return 0
    return round((5 if "c2c" in use.op else 2.5) * numel(data) * log2(points))
