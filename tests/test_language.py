"""Docstrings are statements in standard terms and match the code, and messages contain no archaic words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "scripts", "container")
MESSAGE_FOLDERS = ("src", "scripts", "container")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PRONOUNS = re.compile(r"\b(what|who|whoever|whatever|somebody|nobody|everybody|anybody)\b", re.IGNORECASE)
ARCHAIC = re.compile(
    r"\b(told|tells?|anew|wholly|behind|beside|meanwhile|mend|grave|hardly|thereof|likewise|nor|lies?|lay"
    r"|taken up|takes? up|given up|gives? up|strangers?|remarks?|wishes?|(?:is|are) asked)\b",
    re.IGNORECASE,
)
UNCONVENTIONAL = re.compile(
    r"\b(pictures?|anew|nobody|somebody|whoever|mend(?:s|ed|ing)?|strangers?|told|wholly|likewise|thereof|learnt"
    r"|wish(?:es)?|beside|passed over)\b",
    re.IGNORECASE,
)
INTERFACE_KEYS = {
    ("src/finetune/data/formats/named_fields.py", "picture"),  # a field name of WebDataset and TFRecord files
    ("src/finetune/monitoring/rules/tensors.py", "told"),  # a key of the checkpoint state
}


def parsed(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_docstring_is_a_question(folder: str) -> None:
    firsts = {path: (ast.get_docstring(tree) or "").partition("\n\n")[0] for path, tree in parsed(folder)}
    assert [str(path) for path, first in firsts.items() if "?" in first] == []


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(("words", "per_thousand"), [(PRONOUNS, 2.0), (ARCHAIC, 1.0)], ids=["pronouns", "archaic"])
def test_docstrings_use_standard_terms(folder: str, words: re.Pattern[str], per_thousand: float) -> None:
    docstrings = [
        ast.get_docstring(node) or ""
        for _, tree in parsed(folder)
        for node in ast.walk(tree)
        if isinstance(node, DOCUMENTED)
    ]
    text = "\n".join(docstrings)
    assert len(words.findall(text)) <= per_thousand * len(re.findall(r"[A-Za-z']+", text)) / 1000


def documented_attributes(node: ast.ClassDef) -> list[str]:
    section = re.search(r"Attributes:\n((?:    .*\n?|\n)+)", ast.get_docstring(node) or "")
    return re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []


def defined_names(node: ast.ClassDef) -> set[str]:
    """Names of methods and properties, and of all assigned fields, class variables and attributes."""
    names = {child.name for child in ast.walk(node) if isinstance(child, ast.FunctionDef)}
    names |= {child.id for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)}
    return names | {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_documented_attributes_exist(folder: str) -> None:
    classes = [
        (path, node) for path, tree in parsed(folder) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    undefined = [
        f"{path}: {node.name}.{name}"
        for path, node in classes
        for name in documented_attributes(node)
        if name not in defined_names(node)
    ]
    assert undefined == []


def string_constants(tree: ast.Module) -> Iterator[str]:
    """Texts of all string literals and f-strings except docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("folder", MESSAGE_FOLDERS)
def test_messages_use_conventional_words(folder: str) -> None:
    messages = {(str(path), text) for path, tree in parsed(folder) for text in string_constants(tree)}
    assert {message for message in messages - INTERFACE_KEYS if UNCONVENTIONAL.search(message[1])} == set()


def test_exceptions_for_interface_keys_are_needed() -> None:
    messages = {(str(path), text) for path, tree in parsed("src") for text in string_constants(tree)}
    assert messages >= INTERFACE_KEYS
