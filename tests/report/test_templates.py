"""The house rule: a template holds no logic. It may ask whether something is there, loop, and print."""

import jinja2
import pytest
from jinja2 import nodes

from mpsprobe.report.templating import TEMPLATES

_NAMES = sorted(path.name for path in TEMPLATES.glob("*.j2"))
_PRINTING = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Const,
    nodes.For,
    nodes.If,
    nodes.Include,
    nodes.Import,
    nodes.Macro,
    nodes.Call,
    nodes.Filter,
)


@pytest.mark.parametrize("name", _NAMES)
def test_templates_only_ask_loop_and_print(name: str) -> None:
    tree = jinja2.Environment(autoescape=True).parse((TEMPLATES / name).read_text())
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    for node in tree.find_all(nodes.Node):
        assert isinstance(node, _PRINTING), (name, node.lineno, type(node).__name__)
        if isinstance(node, nodes.If):  # presence, not a condition
            assert isinstance(node.test, nodes.Getattr | nodes.Name), (name, node.lineno)
            assert not node.elif_
        elif isinstance(node, nodes.Filter):  # escaping of one format
            assert node.name in ("prose", "code", "fence", "breakable", "command"), (name, node.lineno)
        elif isinstance(node, nodes.Call):  # a macro, here or imported
            drawn = isinstance(node.node, nodes.Getattr) and isinstance(node.node.node, nodes.Name)
            assert drawn or (isinstance(node.node, nodes.Name) and node.node.name in macros), (
                name,
                node.lineno,
            )
