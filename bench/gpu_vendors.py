"""cuBLAS and cuSOLVER through torch, CuPy and nvmath-python: compositions that do what an op does.

A contender takes the device arrays of a case and returns a function of no arguments. Full float32
arithmetic: TF32 is off.
"""

import importlib.util

__all__ = ["contenders", "products_of_bytes", "versions"]


def _torch():
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def _cupy():
    if importlib.util.find_spec("cupy") is None:
        return None
    import cupy

    return cupy


def _nvmath():
    if importlib.util.find_spec("nvmath") is None:
        return None
    import nvmath

    return nvmath


def versions():
    """Versions of what is compared with."""
    torch, cupy, nvmath = _torch(), _cupy(), _nvmath()
    return {
        name: version
        for name, version in (
            ("torch", torch and torch.__version__),
            ("torch.cuda", torch and torch.version.cuda),
            ("cupy", cupy and cupy.__version__),
            ("nvmath", nvmath and nvmath.__version__),
        )
        if version
    }


def _recursive(a, c, multiply, least=1024):
    """Lower triangle of c = a'a: halves, so that all but 1/least of it is a general product."""
    p = a.shape[1]
    if p <= least:
        multiply(a.T, a, c)
        return
    half = p // 2
    _recursive(a[:, :half], c[:half, :half], multiply, least)
    multiply(a[:, half:].T, a[:, :half], c[half:, :half])
    _recursive(a[:, half:], c[half:, half:], multiply, least)


def _of_torch(torch, case, arrays):
    x = [torch.as_tensor(a, device="cuda") if hasattr(a, "shape") else a for a in arrays]

    def into(a, b, c):
        torch.mm(a, b, out=c) if c.is_contiguous() else c.copy_(torch.mm(a, b))

    if case.op in ("syrk", "gram"):
        a = x[1] if case.op == "syrk" else x[1].T
        c = torch.empty((a.shape[1],) * 2, dtype=a.dtype, device="cuda")
        return {
            "torch gemm": lambda: torch.mm(a.T, a, out=c),
            "torch recursive gemm": lambda: _recursive(a, c, into),
        }
    if case.op == "fvp":
        return {"torch gemv twice": lambda: torch.mv(x[1].T, torch.mv(x[1], x[2][0]))}
    if case.op == "matvec":
        return {"torch gemv": lambda: torch.mv(x[1], x[2][0])}
    if case.op == "rmatvec":
        return {"torch gemv": lambda: torch.mv(x[1].T, x[2][0])}
    if case.op == "diag":
        return {"torch einsum": lambda: torch.einsum("np,np->p", x[1], x[1])}
    if case.op == "cholesky":
        return {"torch potrf": lambda: torch.linalg.cholesky_ex(x[0])}
    if case.op == "solve_lower":
        return {"torch trsm": lambda: torch.linalg.solve_triangular(x[0], x[1].T, upper=False)}
    if case.op == "batched_solve":

        def batched():
            shifted = x[2] + torch.diag_embed(x[4][:, None].expand(-1, case.shape[1]))
            lower = torch.linalg.cholesky_ex(shifted)[0]
            return torch.cholesky_solve(x[3][:, :, None], lower)

        return {"torch batched potrf": batched}
    if case.op == "layered_gram":
        return {"torch gemm": lambda: (x[1] @ x[1].T) * (x[2] @ x[2].T)}

    if case.op.startswith("sliced"):
        return {}
    if case.op == "mixed":
        p = case.shape[1]
        F = torch.empty((p, p), dtype=x[0].dtype, device="cuda")

        def direct(multiply):
            multiply()
            F.div_(case.shape[0]).diagonal().add_(DAMPING)
            return torch.cholesky_solve(x[1].T, torch.linalg.cholesky_ex(F)[0])

        return {
            "torch gemm, potrf": lambda: direct(lambda: torch.mm(x[0].T, x[0], out=F)),
            "torch recursive gemm, potrf": lambda: direct(lambda: _recursive(x[0], F, into)),
        }

    def published():  # forms Q = L^-1 G
        G, n = x[0], case.shape[0]
        K = G @ G.T / n
        K.diagonal().add_(DAMPING)
        Q = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(K)[0], G, upper=False)
        b = G.T @ x[1][0] / n
        return (b - Q.T @ (Q @ b) / n) / DAMPING

    return {"torch, Q formed": published}


DAMPING = 1e-2


def _of_cupy(cupy, case, arrays):
    x = [cupy.asarray(a) if hasattr(a, "shape") else a for a in arrays]
    if case.op in ("syrk", "gram"):
        a = x[1].T if case.op == "syrk" else x[1]  # column-major to cuBLAS
        return {
            "cupy syrk": lambda: cupy.cublas.syrk("N", a, lower=True),
            "cupy gemm": lambda: a @ a.T,
        }
    if case.op == "cholesky":
        from fastfisher.kernels.cuda import vendor

        full = cupy.array(x[0])
        return {"cupy potrf LOWER": lambda: vendor._potrf(full)}
    return {}


def _of_nvmath(case, arrays):
    from fastfisher.kernels.cuda import vendor_nvmath

    if case.op not in ("syrk", "gram", "matvec", "rmatvec"):
        return {}
    function = getattr(vendor_nvmath, case.op)
    return {f"nvmath {case.op}": lambda: function(*arrays)}


def products_of_bytes(order):
    """{name: function of no arguments} of who multiplies square matrices of bytes."""
    torch = _torch()
    if torch is None or not hasattr(torch, "_int_mm"):
        return {}
    a = torch.ones((order, order), dtype=torch.int8, device="cuda")
    return {"torch gemm": lambda: torch._int_mm(a, a.T)}


def contenders(case, arrays):
    """{name: function of no arguments} of what there is."""
    found = {}
    if torch := _torch():
        found |= _of_torch(torch, case, arrays)
    if cupy := _cupy():
        found |= _of_cupy(cupy, case, arrays)
    if _nvmath():
        found |= _of_nvmath(case, arrays)
    return found
