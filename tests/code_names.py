"""The names that the code defines, as a page of documentation may write them."""

import ast
from pathlib import Path

PACKAGES = ("agents", "envs", "neurocoder")


def defined_names(root: Path) -> set[str]:
    """What is defined below a folder's packages: `function`, `Class`, `Class.member`, `argument`.

    Members are methods, annotated fields, class variables, and what methods assign to `self`.
    """
    names: set[str] = set()
    for path in (path for package in PACKAGES for path in (root / package).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names |= _names_of(node)
    return names


def _names_of(node: ast.AST, owner: str = "") -> set[str]:
    if isinstance(node, ast.ClassDef):
        return {node.name}.union(*(_names_of(child, f"{node.name}.") for child in node.body))
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = {owner + node.name, *(argument.arg for argument in arguments)}
        if owner:
            names |= {owner + name for name in _assigned_to_self(node)}
        return names
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return {owner + target.id for target in targets if isinstance(target, ast.Name)}


def _assigned_to_self(method: ast.FunctionDef) -> set[str]:
    stored = [n for n in ast.walk(method) if isinstance(n, ast.Attribute)]
    stored = [n for n in stored if isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name)]
    return {n.attr for n in stored if n.value.id == "self"}
