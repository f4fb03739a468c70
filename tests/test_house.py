"""The rules of the house, as tests: what a reviewer would otherwise have to look for."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "nonvacuous"
MOST_LINES = 400
TORCH_FREE = [
    "nonvacuous",
    "nonvacuous.core",
    "nonvacuous.numerics",
    "nonvacuous.bounds",
    "nonvacuous.verification",
    "nonvacuous.testing.bounds",
    "nonvacuous.cli",
]
HEAVY = {"torch", "ray", "lightning", "pytorch_lightning"}
PAGE_NAME = re.compile(r"plot_[a-z]\d+[a-z]?_[a-z0-9_]+\.py")
#: Spelled so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w./:-])/(?:hom[e]|User[s]|roo[t]|wor[k]|farm)/|\.\./share[d]\b|[C]:\\Users")


def project_files() -> list[Path]:
    """What git tracks or would add; every file of a tree that git does not know."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


FILES = project_files()
SOURCES = [path for path in FILES if path.suffix == ".py" and path.is_relative_to(PACKAGE)]
PYTHON = [path for path in FILES if path.suffix == ".py"]
BOUNDS = [path for path in SOURCES if path.is_relative_to(PACKAGE / "bounds") and path.name != "__init__.py"]
PAGES = sorted((ROOT / "gallery").glob("*.py"))


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(module: ast.Module, package: str) -> Iterator[str]:
    """Dotted names of everything imported, anywhere in the file; relative imports resolved against ``package``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def unsafe_calls(module: ast.Module) -> Iterator[str]:
    """Calls and imports through which a file or a string could run code."""
    for name in imported(module, ""):
        if name.split(".")[0] in {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}:
            yield f"imports {name}"
        if name == "torch.load":
            yield "imports torch.load by name; call torch.load(…, weights_only=True)"
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in {"eval", "exec", "__import__", "os.system"}:
            yield f"line {node.lineno}: {called}(…)"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if given.get("allow_pickle") == "True" or given.get("shell") == "True" or given.get("trust_remote_code") == "True":
            yield f"line {node.lineno}: {called} with allow_pickle, shell or trust_remote_code"


@each(SOURCES)
def test_a_source_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{lines} lines: is there a second room hiding in it?"


@each(PYTHON)
def test_no_module_is_called_utils(path: Path) -> None:
    assert not re.fullmatch(r"_?(utils?|helpers?|misc|common)", path.stem), "name it after what it holds"


@each(SOURCES)
def test_nothing_runs_code_from_a_file_or_a_string(path: Path) -> None:
    assert list(unsafe_calls(tree(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "import torch\ntorch.load('w.pt')",
        "import torch\ntorch.load('w.pt', weights_only=False)",
        "from torch import load",
        "import numpy\nnumpy.load('x.npy', allow_pickle=True)",
    ],
)
def test_the_check_above_can_fail(code: str) -> None:
    assert list(unsafe_calls(ast.parse(code)))


def test_the_check_above_lets_safe_code_through() -> None:
    safe = "import torch\nmodel.eval()\ntorch.load('w.pt', weights_only=True)\nnumpy.load('x.npy')"
    assert list(unsafe_calls(ast.parse(safe))) == []


@each(BOUNDS)
def test_a_bound_does_not_import_another(path: Path) -> None:
    own = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    siblings = [
        name
        for name in imported(tree(path), own.rpartition(".")[0])
        if name.startswith("nonvacuous.bounds") and not name.startswith(own)
    ]
    assert siblings == [], "what two theorems share belongs in core or numerics"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []


def test_torchvision_is_absent() -> None:
    there = [name for name in ("torchvision", "torchaudio") if importlib.util.find_spec(name)]
    assert there == [], "uninstall: what works with it may fail for users, who need not have it"


def test_no_file_names_one_machine_or_a_neighbouring_folder() -> None:
    found = []
    for path in FILES:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)
        ]
    assert found == []


@each(PAGES)
def test_a_gallery_page_is_named_after_its_row_and_asserts_its_claim(path: Path) -> None:
    assert PAGE_NAME.fullmatch(path.name), "plot_<row>_<name>.py, as in plot_g1_held_out.py"
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree(path))), "a page that cannot fail shows nothing"
