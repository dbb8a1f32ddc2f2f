"""Read the ops of a release, as the wheel's own code generator expands `native_functions.yaml`.

The generator is imported in its own process, because each release has another one under the same name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_READ = """
import json, sys
from torchgen.gen import parse_native_yaml
packaged = sys.argv[1] + "/torchgen/packaged/ATen/native/"
parsed = parse_native_yaml(packaged + "native_functions.yaml", packaged + "tags.yaml")
keys = {
    str(f.func.name): sorted(str(k) for k, index in parsed.backend_indices.items() if index.has_kernel(f))
    for f in parsed.native_functions
}
views = [str(f.func.name) for f in parsed.native_functions if f.is_view_op]
delegates = {
    str(f.func.name): str(f.structured_delegate) for f in parsed.native_functions if f.structured_delegate
}
print(json.dumps({"keys": keys, "views": views, "delegates": delegates}))
"""


@dataclass(frozen=True)
class Schemas:
    """The names of ops, without `aten::`.

    Attributes:
        names: Every op, including generated variants.
        views: The ops whose result shares memory with an argument.
        declared: The ops to which the yaml file gives an MPS kernel, including structured delegates.
    """

    names: frozenset[str]
    views: frozenset[str]
    declared: frozenset[str]


def read(root: Path) -> Schemas:
    """Return the names of ops that the code generator of the wheel unpacked at `root` makes of its yaml file."""
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(root)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout)
    declared = {name for name, keys in facts["keys"].items() if "MPS" in keys}
    declared |= {name for name, target in facts["delegates"].items() if target in declared}
    return Schemas(frozenset(facts["keys"]), frozenset(facts["views"]), frozenset(declared))
