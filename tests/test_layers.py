"""The code follows the plan of allowed imports, and importing it has no side effects."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
HEAVY = {"torch", "torchvision", "transformers", "timm", "matplotlib", "sklearn", "pandas", "smdebug"}
SECONDS_TO_IMPORT = {"transformers", "timm", "matplotlib", "sklearn", "smdebug"}

# Layer: the layers or single modules that it may import, besides itself, `errors` and `messages`.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "messages": set(),
    "config": set(),
    "sagemaker": {"runtime.atomic_files"},
    "runtime": {"config", "sagemaker.failure"},
    "distributed": {"runtime"},
    "launch": {"runtime", "sagemaker"},
    "checkpoint": {"runtime"},
    "monitoring": {"config", "runtime"},
    "data": {"config", "runtime"},
    "models": {"config", "runtime"},
    "solver": {"runtime"},
    "strategies": {"config", "models.backbone"},
    "tasks": {"config", "data.labels"},
    "evaluation": {"config", "runtime", "distributed", "monitoring", "data", "models", "tasks"},
    "training": {
        "config",
        "runtime",
        "distributed",
        "monitoring",
        "checkpoint",
        "data",
        "models",
        "strategies",
        "tasks",
        "solver",
    },
    "features": {"config", "runtime", "distributed", "checkpoint", "data", "models", "strategies", "training"},
    "export": {"config", "runtime", "models"},
    "serving": {"config", "sagemaker", "runtime", "models", "export"},
    "job": {
        *("config", "sagemaker", "runtime", "checkpoint", "monitoring", "data", "models", "strategies", "tasks"),
        *("evaluation", "training", "features", "export", "distributed", "solver"),
    },
    "entry": {"distributed", "launch", "job", "sagemaker", "runtime"},
    "__main__": {"entry", "launch", "sagemaker", "cli"},
    "local": {"config", "launch", "monitoring", "runtime", "sagemaker", "serving"},
    "cli": {"config", "data", "local", "monitoring", "runtime", "serving", "tasks"},
}
# Layer: its allowed imports outside the standard library; layers that are not listed may import anything.
MAY_DEPEND_ON: dict[str, set[str]] = {"errors": set(), "messages": set(), "sagemaker": set(), "config": {"pydantic"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Mapping[str, Path] = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
OURS = {name: path for name, path in MODULES.items() if name.startswith("finetune.")}


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """Absolute names of the modules imported anywhere in a syntax tree, including in functions and for types."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def layer_of(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", OURS)
def test_a_module_imports_only_what_its_layer_may(name: str) -> None:
    layer = layer_of(name)
    allowed = MAY_IMPORT[layer] | {layer, "errors", "messages"}
    inside = [other.removeprefix("finetune.") for other in imported(name, parse(name)) if other.startswith("finetune.")]
    assert [other for other in inside if other not in allowed and other.split(".")[0] not in allowed] == []


@pytest.mark.parametrize("name", [name for name in OURS if layer_of(name) in MAY_DEPEND_ON])
def test_layers_that_start_every_job_stay_light(name: str) -> None:
    roots = {other.split(".")[0] for other in imported(name, parse(name))}
    assert roots - sys.stdlib_module_names - MAY_DEPEND_ON[layer_of(name)] - {"finetune"} == set()


@pytest.mark.parametrize("name", MODULES)
def test_platform_and_container_do_not_know_each_other(name: str) -> None:
    other = "sagemaker_simulator" if name.split(".")[0] == "finetune" else "finetune"
    assert [found for found in imported(name, parse(name)) if found.split(".")[0] == other] == []


def test_the_handler_in_the_artifact_needs_none_of_our_code() -> None:
    name = "finetune.export.inference"
    assert [found for found in imported(name, parse(name)) if found.startswith("finetune")] == []


def test_slow_libraries_are_imported_where_they_are_used() -> None:
    at_import = {
        name: {
            found.split(".")[0]
            for node in parse(name).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for found in imported(name, node)
        }
        for name in OURS
    }
    assert {name: slow for name, found in at_import.items() if (slow := found & SECONDS_TO_IMPORT)} == {}


def test_no_import_cycle() -> None:
    graph = {name: {found for found in imported(name, parse(name)) if found in MODULES} - {name} for name in MODULES}
    TopologicalSorter(graph).prepare()


def test_modules_stay_short() -> None:
    files = [path for folder in ("src", "tests", "scripts", "container") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: lines for path, lines in lengths.items() if lines > longest(path)} == {}


def longest(path: str) -> int:
    """Maximum number of lines of a module."""
    if path == "src/finetune/export/inference.py":
        return 800  # the artifact contains the handler as a single file
    if path == "src/finetune/config/hyperparameters.py":
        return 600  # all declarations in one place
    return 850 if path.startswith("tests/fuzz/") else 450  # tables of cases


@pytest.mark.parametrize(
    "name", ["finetune", *(name for name in OURS if layer_of(name) in {"sagemaker", "config", "errors"})]
)
def test_importing_does_no_work(name: str, tmp_path: Path) -> None:
    look = f"import sys, {name}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-B", "-c", look],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SOURCE), "HOME": str(tmp_path), "SAGEMAKER_BASE_DIR": str(tmp_path / "ml")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert HEAVY.intersection(loaded) == set()
    assert list(tmp_path.iterdir()) == []
