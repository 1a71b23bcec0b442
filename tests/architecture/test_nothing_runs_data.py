"""No shipped file has a way to run code that comes as data: no pickle in any of its disguises, no eval, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*(ROOT / "rlkit_core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])

MODULES = {
    *("pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dbm", "copyreg"),
    *("dill", "joblib", "cloudpickle", "jsonpickle", "hickle", "numpy.lib.format", "xmlrpc", "code", "codeop"),
    *("torch.serialization", "torch.package", "torch.hub", "torch.jit", "pandas"),
}
"""Modules that make objects of bytes, or code of text."""
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
ATTRIBUTES = {
    *("torch.load", "torch.save", "torch.hub", "torch.jit", "torch.package", "torch.serialization"),
    *("np.load", "np.save", "np.savez", "np.fromfile", "np.memmap", "numpy.load", "numpy.save", "numpy.memmap"),
    *("np.lib.format", "numpy.lib.format", "np.loadtxt", "np.genfromtxt", "np.fromregex"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all", "yaml.unsafe_load_all", "yaml.load_all"),
    *("yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader", "yaml.CFullLoader", "yaml.CUnsafeLoader"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "types.CodeType"),
    *("types.FunctionType", "importlib.machinery.SourcelessFileLoader", "builtins.eval", "builtins.exec"),
}
KEYWORDS = {"allow_pickle": None, "shell": True, "weights_only": None, "pickle_module": None, "trust_repo": None}
"""Arguments, with the value that is refused (None: any)."""
METHODS = {"load_module", "__reduce__", "__reduce_ex__", "__setstate__", "__getstate__", "tofile", "find_class"}


def found_in(source: str) -> Iterator[str]:
    """What a file's source holds of that, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        for what in _found(node):
            yield f"{getattr(node, 'lineno', '?')}: {what}"


def _found(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _is_in(alias.name, MODULES))
    elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
        whole = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in whole if _is_in(name, MODULES) or name in ATTRIBUTES)
    elif isinstance(node, ast.Name) and node.id in BUILTINS:
        yield node.id
    elif isinstance(node, ast.Attribute):
        if node.attr in METHODS or ast.unparse(node) in ATTRIBUTES or ast.unparse(node).endswith(".builtins"):
            yield ast.unparse(node)
    elif isinstance(node, ast.FunctionDef) and node.name in METHODS:
        yield node.name
    elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
        refused = KEYWORDS[node.arg]
        if refused is None or not (isinstance(node.value, ast.Constant) and node.value.value is not refused):
            yield f"{node.arg}={ast.unparse(node.value)}"
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and _is_in(str(first.value), MODULES):
            yield ast.unparse(node)
    elif isinstance(node, ast.Call) and ast.unparse(node).startswith("yaml.load("):
        yield from () if ast.unparse(node).endswith(", Loader)") else (ast.unparse(node),)


def _is_in(module: str, modules: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in modules)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_shipped_file_runs_data(file: Path) -> None:
    assert not list(found_in(file.read_text(encoding="utf-8")))


def test_yaml_is_loaded_by_the_one_loader_that_makes_no_objects() -> None:
    """`yaml.load` takes the class of that name in `config.py`, a SafeLoader, by libyaml where there is that."""
    using = [file for file in SHIPPED if "yaml.load(" in file.read_text(encoding="utf-8")]
    assert [file.name for file in using] == ["config.py"]
    nodes = list(ast.walk(ast.parse(using[0].read_text(encoding="utf-8"))))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == "Loader"]
    assert [ast.unparse(base) for node in classes for base in node.bases] == ["safe_loader"]
    loaders = [
        ast.unparse(node.value)
        for node in nodes
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "safe_loader" and node.value is not None
    ]
    assert loaders == ["getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    import pickle as p",
        "from pickle import loads",
        "from torch import load",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch.serialization import load",
        "import marshal, json",
        "from dill import loads",
        "import joblib.numpy_pickle",
        "import cloudpickle",
        "import shelve",
        "eval('1')",
        "exec(text)",
        "run = eval",
        "compile(text, 'x', 'exec')",
        "__import__('os')",
        "import numpy as np\nnp.load('x')",
        "f(allow_pickle=True)",
        "f(allow_pickle=allowed)",
        "import os\nos.system('x')",
        "subprocess.run('x', shell=True)",
        "yaml.load(text, yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "class A:\n    def __reduce__(self): ...",
        "importlib.import_module('pickle')",
        "torch.jit.load('x')",
    ],
)
def test_it_would_be_found(source: str) -> None:
    assert list(found_in(source))


@pytest.mark.parametrize(
    "source",
    ["from safetensors.torch import load, save", "self.eval()", "re.compile('x')", "load(content)", "json.loads(text)"],
)
def test_other_things_of_that_name_are_left_alone(source: str) -> None:
    assert not list(found_in(source))
