"""Imports of packages that need CUDA."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on
from mpsprobe.scan.names import modules_of
from mpsprobe.scan.site import Hit, Site
from mpsprobe.scan.tables import cuda_library, cuda_only


@on(ast.Import, ast.ImportFrom)
def cuda_import(node: ast.Import | ast.ImportFrom, site: Site) -> Iterator[Hit]:
    """An import that nothing guards."""
    if site.failed_import_is_handled:
        return
    for module in modules_of(node):
        package = cuda_only(module)
        library = cuda_library(module)
        top = module.partition(".")[0]
        if (package is None and library is None) or (top, site.in_function) in site.told:
            continue
        site.told.add((top, site.in_function))
        if package is not None:
            code = "MPS402" if site.in_function else "MPS401"
            yield Hit(
                code,
                node,
                f"import of {top}: {_lower(package.why)}",
                mend=f"Instead: {_lower(package.instead)} Or guard it: try / except ImportError.",
                links=(package.source,),
            )
        elif library is not None and not site.in_function:
            yield Hit(
                "MPS405",
                node,
                f"import of {top}: {_lower(library.why)}",
                mend=f"Instead: {_lower(library.instead)}",
                links=(library.source,),
            )


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if not sentence[:2].isupper() else sentence
