"""Who may import whom: read from the sources, so that an import inside a function counts too.

docs/decisions/0002-layers.md explains the order; a test below holds that page to this file.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "rlkit_core"
PLUGINS = ROOT / "plugins"

# From the lowest to the highest. A module imports from lower layers only, not from its own.
LAYERS = [
    {"errors", "figures", "installed", "signals", "statistics"},
    {"seeding", "rollout", "component", "hookspecs", "environment_state", "charts"},
    {"exploration", "policy", "returns", "network", "environment", "config", "progress", "run_folder"},
    {"collector", "group_folder", "learner", "registry"},
    {
        "presets",
        "provenance",
        "tracking",
        "stored_policy",
        "checkpoint",
        "drift",
        "profiling",
        "run_filter",
        "scaffold",
    },
    {"run_store", "executor", "search_space"},
    {"refusals"},
    {"comparison"},
    {"evaluation", "continuation", "doctor", "report", "sweep", "verification"},
    {"training"},
    {"group"},
    {"reproduction", "tuning"},
    {"testing"},
    {"cli"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

# What parts are written with: the interfaces, what flows through them, and errors.
FOR_PLUGINS = {
    *(
        "collector",
        "component",
        "environment",
        "errors",
        "exploration",
        "hookspecs",
        "learner",
        "network",
        "policy",
        "returns",
    ),
    *("rollout", "run_store", "seeding", "testing", "tracking", "builtin"),
    *("executor", "group"),  # what an executor gets, and what its processes call
}
# The built-in parts are plugins that come along; these three help them with texts and files.
FOR_BUILTIN = FOR_PLUGINS - {"testing"} | {"config", "run_folder"}


@dataclass(frozen=True)
class Import:
    """One import: who imports, which module, which name of it (None for the module itself), and where it stands."""

    file: Path
    module: str
    name: str | None
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module} {self.name or ''}"


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(file: Path) -> list[Import]:
    """All imports of a file but those for type checkers."""
    found: list[Import] = []

    def visit(node: ast.AST, at_top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if _is_type_checking(child):
                for other in child.orelse:  # type: ignore[attr-defined]
                    visit(ast.Module([other], []), at_top)
            elif isinstance(child, ast.Import):
                found.extend(Import(file, alias.name, None, child.lineno, at_top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno}: imports are absolute"
                found.extend(
                    Import(file, child.module or "", alias.name, child.lineno, at_top) for alias in child.names
                )
            else:
                visit(child, at_top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))

    visit(ast.parse(file.read_text(encoding="utf-8")), True)
    return found


def part_of_core(item: Import) -> str | None:
    """The module of rlkit_core that an import reaches, such as `rollout` or `cli`; None for others.

    A public name of `rlkit_core` itself counts as the module it comes from.
    """
    parts = item.module.split(".")
    if parts[0] != "rlkit_core":
        return None
    if len(parts) > 1:
        return parts[1]
    from rlkit_core import _MODULE_OF

    return _MODULE_OF.get(item.name or "", item.name or "")


def core_files() -> dict[Path, str]:
    """Files of the core but the built-in parts, with the module that each belongs to."""
    files = {file: file.relative_to(CORE).parts[0].removesuffix(".py") for file in sorted(CORE.rglob("*.py"))}
    return {file: name for file, name in files.items() if name not in ("builtin", "__init__")}


def all_files() -> list[Path]:
    """Every file that is shipped."""
    return sorted([*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")])


def plugin_names() -> set[str]:
    return {folder.name for folder in PLUGINS.iterdir() if (folder / "__init__.py").exists()}


def refused(found: list[Import]) -> None:
    assert not found, "\n".join(map(str, found))


def test_imports_in_functions_count_and_those_for_type_checkers_do_not(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "import a\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\n"
        "def f():\n    import d\n    try:\n        from rlkit_core import train\n    finally:\n        pass\n"
    )
    found = {item.module: item for item in imports(file)}
    assert set(found) == {"a", "typing", "c", "d", "rlkit_core"}
    assert found["a"].at_top
    assert not found["d"].at_top
    assert part_of_core(found["rlkit_core"]) == "training"


def test_every_module_of_the_core_has_a_layer() -> None:
    assert set(core_files().values()) == set(LAYER_OF)


@pytest.mark.parametrize("name", sorted(LAYER_OF))
def test_imports_go_down_only(name: str) -> None:
    wrong = []
    for file, module in core_files().items():
        for item in imports(file) if module == name else []:
            part = part_of_core(item)
            # `rlkit_core.builtin` has a rule of its own, below; a package may import its own files.
            if part not in (None, name, "builtin") and LAYER_OF.get(str(part), 99) >= LAYER_OF[name]:
                wrong.append(item)
    refused(wrong)


def test_the_core_imports_no_plugin_and_no_built_in_part() -> None:
    refused(
        [
            item
            for file in core_files()
            for item in imports(file)
            if part_of_core(item) == "builtin" or item.module.split(".")[0] in plugin_names()
        ]
    )


def test_the_core_names_no_built_in_part_and_no_algorithm() -> None:
    """Not even as text: parts are found by entry point. The names of defaults are the exception, one line each."""
    forbidden = {"rlkit_core.builtin", *plugin_names(), *(name.removeprefix("rlkit_") for name in plugin_names())}
    found = []
    for file in core_files():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [
            f"{file.relative_to(ROOT)}:{node.lineno} names {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in forbidden
        ]
    assert not found


def test_built_in_parts_import_what_a_plugin_could() -> None:
    refused(
        [
            item
            for file in sorted((CORE / "builtin").rglob("*.py"))
            for item in imports(file)
            if part_of_core(item) not in (None, *FOR_BUILTIN) or item.module.split(".")[0] in plugin_names()
        ]
    )


def test_plugins_import_public_names_built_in_parts_and_no_other_plugin() -> None:
    wrong = []
    for file in sorted(PLUGINS.rglob("*.py")):
        own = file.relative_to(PLUGINS).parts[0]
        for item in imports(file):
            part = part_of_core(item)
            private = any(word.startswith("_") for word in [*item.module.split("."), item.name or ""]) and part
            other = item.module.split(".")[0] in plugin_names() - {own}
            if private or other or part not in (None, *FOR_PLUGINS):
                wrong.append(item)
    refused(wrong)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("mlflow", {"rlkit_core/builtin/mlflow_store.py", "rlkit_core/builtin/mlflow_tracker.py"}),
        ("tensorboard", {"rlkit_core/builtin/tensorboard_tracker.py"}),
        ("matplotlib", {"rlkit_core/figures.py"}),
        ("plotly", {"rlkit_core/figures.py"}),
        ("pluggy", {"rlkit_core/hookspecs.py", "rlkit_core/registry.py"}),
        ("hypothesis", {"rlkit_core/testing/strategies.py"}),
    ],
)
def test_a_package_is_imported_in_few_places(package: str, allowed: set[str]) -> None:
    importers = {item.file.relative_to(ROOT).as_posix() for item in _importing(package)}
    assert importers == allowed


def test_click_is_imported_by_the_command_only() -> None:
    refused([item for item in _importing("click") if not item.file.is_relative_to(CORE / "cli")])


def _importing(package: str) -> list[Import]:
    return [item for file in all_files() for item in imports(file) if item.module.split(".")[0] == package]


def test_nothing_unpickles() -> None:
    for package in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
        refused(_importing(package))
    forbidden = {
        *("torch.load", "torch.save", "np.load", "numpy.load"),
        *("yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader"),
    }
    last_parts = {name.rpartition(".")[2] for name in forbidden}
    found = []
    for file in all_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in last_parts and ast.unparse(node) in forbidden:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found.append(f"{file.relative_to(ROOT)}:{node.value.lineno}: allow_pickle")
    assert not found


def config_files() -> list[Path]:
    """Files that are imported when a part is named, before anything is built."""
    names = {"component", "config", "errors", "hookspecs", "presets", "progress", "registry", "run_folder", "tracking"}
    core = [CORE / "__init__.py", *(CORE / f"{name}.py" for name in sorted(names))]
    builtin = [file for file in (CORE / "builtin").glob("*.py") if "Config(" in file.read_text(encoding="utf-8")]
    plugins = [file for file in PLUGINS.rglob("*.py") if file.name in ("__init__.py", "config.py")]
    return [*core, *sorted(builtin), CORE / "builtin" / "__init__.py", *sorted(plugins)]


@pytest.mark.parametrize("file", config_files(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_config_files_import_nothing_slow_at_the_top(file: Path) -> None:
    slow = ("torch", "gymnasium", "mlflow", "tensorboard", "safetensors", "matplotlib")
    refused([item for item in imports(file) if item.at_top and item.module.split(".")[0] in slow])


def test_naming_every_part_imports_nothing_slow() -> None:
    """The same as it really happens, with everything that those files import in turn."""
    code = """
import sys
import rlkit_core
from rlkit_core.registry import Registry
registry = Registry()
for entry in registry.entries():
    if entry.distribution == "rlkit-core":
        registry.get(entry.kind, f"{entry.distribution}:{entry.name}")
print(sorted({"torch", "gymnasium", "mlflow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT / "docs")
    assert done.stdout == "[]\n", done.stderr


def test_the_page_of_the_layers_says_the_same() -> None:
    text = (ROOT / "docs" / "decisions" / "0002-layers.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert block is not None
    written = [set(line.split()) for line in block[1].splitlines()]
    assert written == LAYERS[::-1]
