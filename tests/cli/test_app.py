"""The command `finetune` as users start it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import finetune

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; from finetune.cli.app import main; sys.exit(main())"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_console_script_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="finetune")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert script.value == declared["finetune"] == "finetune.cli.app:main"
    assert callable(script.load())


def test_help_imports_no_slow_library() -> None:
    look = "import sys; from finetune.cli.app import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", look, "predict", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "MODEL" in done.stdout
    assert {"torch", "transformers", "numpy", "PIL"}.isdisjoint(done.stderr.split())


def test_imported_packages_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = [re.split(r"[<>=]", name)[0] for name in (*project["dependencies"], *extras["s3"], *extras["tune"])]
    modules = {"pillow": "PIL", "huggingface-hub": "huggingface_hub", "google-crc32c": "google_crc32c"}
    declared = {modules.get(name, name) for name in names} | {"botocore", "httpx", "finetune"}  # of boto3 and the hub
    imported: dict[str, set[str]] = {}
    for path in (ROOT / "src" / "finetune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                found.append(node.module or "")
            for name in found:
                imported.setdefault(name.split(".")[0], set()).add(path.name)
    undeclared = {name: files for name, files in imported.items() if name not in declared | sys.stdlib_module_names}
    # Only in images, and handled where they are absent.
    assert set(undeclared) == {"sagemaker_inference", "sagemaker_training", "smdebug"}, undeclared


def test_version_is_printed() -> None:
    assert run("--version").stdout == f"finetune {finetune.__version__}\n"


def test_failures_are_one_message_without_traceback(tmp_path: Path) -> None:
    done = run("predict", str(tmp_path), "image.png")
    assert done.returncode == 1
    assert done.stderr.startswith(f"finetune: {tmp_path} contains no model of this project")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_module_with_arguments_is_the_command_line(tmp_path: Path) -> None:
    environment = {"PATH": "", "SAGEMAKER_BASE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "finetune", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Usage: " in done.stdout
    assert list(tmp_path.iterdir()) == []
