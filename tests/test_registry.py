"""Plugins: found by metadata alone, imported when named, and each way to break the contract has its own message."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from rlkit_core.component import EstimatorConfig, dump
from rlkit_core.config import RunConfig
from rlkit_core.errors import PluginError, UsageError
from rlkit_core.registry import Registry, import_modules

HEAD = """
from typing import ClassVar
from pydantic import Field
from rlkit_core.component import *
from rlkit_core.component import Component
from rlkit_core.hookspecs import hookimpl
"""
GOOD = """
class VTraceConfig(EstimatorConfig):
    "Corrects for old policies."
    name: ClassVar[str] = "vtrace"
    clip: float = Field(1.0, description="largest ratio")
    def build(self): ...

@hookimpl
def rlkit_register():
    return [VTraceConfig]
"""


class Site:
    """A folder on the path, with distributions in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(folder)

    def add(
        self,
        distribution: str,
        source: str | None = GOOD,
        points: str = "[rlkit.estimator]\nvtrace = {module}\n",
        *,
        module: str = "",
        metadata: str | None = None,
        kind: str = "dist-info",
    ) -> str:
        module = module or distribution.replace("-", "_")
        self._monkeypatch.delitem(sys.modules, module, raising=False)
        if source is not None:
            (self.folder / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        info = self.folder / f"{distribution}.{kind}"
        info.mkdir(exist_ok=True)
        if metadata is None:
            metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        (info / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(metadata)
        (info / "entry_points.txt").write_text(points.format(module=module))
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    before = set(sys.modules)
    yield Site(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_strangers_part_is_used_like_our_own(site: Site) -> None:
    module = site.add("stranger")
    registry = Registry()
    entry = registry.find("estimator", "vtrace")
    assert (entry.kind, entry.distribution, entry.version, entry.module) == ("estimator", "stranger", "1.2", module)
    assert registry.names("estimator") == ["discounted", "lambda", "vtrace"]
    assert registry.entry_of(EstimatorConfig) is None
    assert module not in sys.modules
    layers = {"algorithm": {"name": "a2c", "estimator": {"name": "vtrace", "clip": 2}}, "env": "x"}
    config = RunConfig.parse(layers, registry=registry)
    assert config.algorithm.estimator.clip == 2  # type: ignore[attr-defined]
    assert registry.entry_of(type(config.algorithm.estimator)) == entry  # type: ignore[attr-defined]
    assert dump(config.algorithm)["estimator"]["name"] == "vtrace"
    assert RunConfig.parse(config.dump(), registry=Registry()) == config


HOSTILE = {
    "raises": ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
    "exits": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "syntax": ("def (", "SyntaxError"),
    "imports": ("import nothing_of_that_name", "ModuleNotFoundError"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_plugin_that_cannot_be_imported(name: str, site: Site) -> None:
    source, reason = HOSTILE[name]
    module = site.add(name, source)
    site.add("healthy", points="[rlkit.estimator]\nwell = {module}\n", source=GOOD.replace("vtrace", "well"))
    registry = Registry()
    assert registry.get("estimator", "well").name == "well"
    assert registry.get("algorithm", "a2c").name == "a2c"
    assert module not in sys.modules
    with pytest.raises(PluginError) as error:
        registry.get("estimator", "vtrace")
    text = str(error.value)
    assert error.value.exit_code == 3
    assert text.startswith(f"plugin {name} 1.2 cannot be imported: {reason}")
    assert "estimator vtrace" in text
    assert len(text.splitlines()) <= 3
    assert registry.get("estimator", "lambda").name == "lambda"


CONTRACT = {
    "no hook": ("x = 1", "has no hook rlkit_register"),
    "undecorated": (GOOD.replace("@hookimpl", ""), "has no hook rlkit_register"),
    "mistyped hook": ("@hookimpl\ndef rlkit_registr(): return []", "a hook that rlkit does not know"),
    "hook's arguments": ("@hookimpl\ndef rlkit_register(registry): return []", "a hook that rlkit does not know"),
    "raising": ("@hookimpl\ndef rlkit_register(): raise ValueError('why')", "rlkit_register raised ValueError: why"),
    "exiting": ("@hookimpl\ndef rlkit_register(): raise SystemExit(0)", "rlkit_register raised SystemExit"),
    "none": ("@hookimpl\ndef rlkit_register(): pass", "should return a list of config classes, not None"),
    "one class": (GOOD.replace("[VTraceConfig]", "VTraceConfig"), "should return a list of config classes"),
    "empty": (GOOD.replace("[VTraceConfig]", "[]"), "it returns: nothing"),
    "instance": (GOOD.replace("[VTraceConfig]", "[VTraceConfig()]"), "not a config class"),
    "text": (GOOD.replace("[VTraceConfig]", "['vtrace']"), "not a config class"),
    "other class": (GOOD.replace("[VTraceConfig]", "[int]"), "not a config class"),
    "kind itself": (GOOD.replace("[VTraceConfig]", "[EstimatorConfig]"), "not a config class"),
    "no kind": (GOOD.replace("(EstimatorConfig)", "(Component)"), "not a config class"),
    "wrong kind": (GOOD.replace("(EstimatorConfig)", "(TrackerConfig)"), "it returns: tracker vtrace"),
    "false kind": (GOOD.replace("    clip:", "    kind = 'network'\n    clip:"), "has kind 'network'"),
    "wrong name": (GOOD.replace('"vtrace"', '"v-trace"'), "it returns: estimator v-trace"),
    "no name": (GOOD.replace('name: ClassVar[str] = "vtrace"', "pass"), "has no name"),
    "name as field": (GOOD.replace("name: ClassVar[str] =", "name: str ="), "has no name"),
    "odd name": (GOOD.replace('"vtrace"', '"a:b c"'), "has no name"),
    "no docstring": (GOOD.replace('"Corrects for old policies."', "pass"), "has no docstring"),
    "no description": (GOOD.replace('Field(1.0, description="largest ratio")', "1.0"), "clip has no description"),
    "no build": (GOOD.replace("def build", "def built"), "does not define build"),
    "twice": (
        GOOD.replace("[VTraceConfig]", "[VTraceConfig, type('B', (VTraceConfig,), {'__doc__': 'B'})]"),
        "both VTraceConfig and B are",
    ),
    "no slot": (
        GOOD.replace("clip: float = Field(1.0,", "clip: NetworkConfig | None = Field(None,"),
        "clip holds a component but is no slot",
    ),
}


@pytest.mark.parametrize("what", CONTRACT)
def test_each_broken_rule_has_its_own_message(what: str, site: Site) -> None:
    source, said = CONTRACT[what]
    site.add("broken", source)
    registry = Registry()
    for _ in range(2):  # the second time too
        with pytest.raises(PluginError) as error:
            registry.get("estimator", "vtrace")
        assert said in str(error.value)
        assert "broken 1.2" in str(error.value)
        assert len(str(error.value).splitlines()) <= 3
    assert registry.get("estimator", "lambda").name == "lambda"


def test_an_algorithms_field_must_not_hide_the_runs(site: Site) -> None:
    source = """
    class Mine(AlgorithmConfig):
        "Mine."
        name: ClassVar[str] = "mine"
        collector: CollectorConfig = Field(description="c")
        seed: int = Field(0, description="mine too")
        def build(self, setup): ...
    @hookimpl
    def rlkit_register(): return [Mine]
    """
    site.add("broken", source, "[rlkit.algorithm]\nmine = {module}\n")
    with pytest.raises(PluginError, match=r"Mine\.seed would hide the run's own setting"):
        Registry().get("algorithm", "mine")


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_two_distributions_with_one_name(order: tuple[str, str], site: Site) -> None:
    for name in order:
        site.add(name)
    registry = Registry()
    with pytest.raises(PluginError) as error:
        registry.get("estimator", "vtrace")
    assert "one and two" in str(error.value)
    assert "name it in full: one:vtrace or two:vtrace" in str(error.value)
    for name in order:
        layers = {"algorithm": {"name": "a2c", "estimator": f"{name}:vtrace"}, "env": "x"}
        config = RunConfig.parse(layers, registry=registry)
        assert type(config.algorithm.estimator).__module__ == name  # type: ignore[attr-defined]
        assert config.dump()["algorithm"]["estimator"]["name"] == f"{name}:vtrace"
        assert RunConfig.parse(config.dump(), registry=Registry()) == config
    assert registry.get("estimator", "rlkit_core:lambda").name == "lambda"
    with pytest.raises(UsageError, match="there is no estimator named three:vtrace"):
        registry.get("estimator", "three:vtrace")


def test_the_same_distribution_twice_is_one(site: Site) -> None:
    site.add("my-plugin")
    site.add("my_plugin", None, kind="egg-info", metadata="Metadata-Version: 2.1\nName: My.Plugin\nVersion: 0.9\n")
    assert len([entry for entry in Registry().entries() if entry.name == "vtrace"]) == 1
    assert Registry().get("estimator", "my_Plugin:vtrace").name == "vtrace"


def test_broken_metadata_harms_nobody(site: Site) -> None:
    site.add("garbage", points="this is no\nini [file\n= =")
    site.add("nameless", metadata="")
    site.add("odd", points="[rlkit.nothing]\na = b\n[estimator]\nc = d\n[rlkit.estimator]\ne = \n")
    (site.folder / "binary.dist-info").mkdir()
    (site.folder / "binary.dist-info" / "entry_points.txt").write_bytes(b"[rlkit.estimator]\n\xff\xfe = x\n")
    (site.folder / "empty.dist-info").mkdir()
    assert Registry().get("estimator", "lambda").name == "lambda"
    assert {"a", "c"}.isdisjoint(Registry().names("estimator"))


def test_unknown_names() -> None:
    with pytest.raises(UsageError) as error:
        Registry().get("estimator", "lamda")
    assert str(error.value) == (
        "there is no estimator named lamda\ndid you mean lambda? registered: discounted, lambda"
    )


def module(name: str, source: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(HEAD + textwrap.dedent(source), made.__dict__)
    return made


def test_modules_given_directly_come_first(site: Site) -> None:
    site.add("installed")
    given = module("given", GOOD)
    registry = Registry(plugins=[given])
    assert registry.get("estimator", "vtrace") is given.VTraceConfig
    assert registry.find("estimator", "vtrace").distribution == "given"
    assert registry.get("estimator", "installed:vtrace").__module__ == "installed"
    assert registry.get("estimator", "given:vtrace") is given.VTraceConfig
    assert dump(given.VTraceConfig())["name"] == "vtrace"
    with pytest.raises(PluginError, match="plugin bare: module bare has no hook"):
        Registry(plugins=[module("bare", "")])


SPY = """
seen = []
@hookimpl
def rlkit_iteration_finished(step, metrics):
    seen.append(step)
"""


def test_run_hooks_act_only_when_named(site: Site) -> None:
    site.add("quiet", GOOD + SPY)
    site.add("loud", SPY, points="")
    registry = Registry()
    hooks = registry.hooks(["loud", "loud"])
    registry.get("estimator", "vtrace")
    hooks.rlkit_iteration_finished(step=3, metrics={})
    spy = module("given_spy", SPY)
    Registry(plugins=[spy]).hooks(["given_spy"]).rlkit_iteration_finished(step=5, metrics={})
    assert spy.seen == [5]
    Registry().hooks([]).rlkit_iteration_finished(step=4, metrics={})
    assert sys.modules["loud"].seen == [3]
    assert sys.modules["quiet"].seen == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("x = 1", "has no run hook"),
        ("@hookimpl\ndef rlkit_run_start(): pass", "does not know"),
        ("@hookimpl\ndef rlkit_run_finished(steps): pass", "does not know"),
    ],
)
def test_wrong_hook_modules(source: str | None, said: str, site: Site) -> None:
    site.add("hooky", source, points="")
    with pytest.raises(PluginError, match=said):
        Registry().hooks(["hooky"])


def test_imports_of_environments(site: Site) -> None:
    site.add("good_env", "x = 1", points="")
    site.add("bad_env", "raise SystemExit(3)", points="")
    import_modules(["good_env"], from_here=False)
    with pytest.raises(UsageError, match="cannot import bad_env: SystemExit: 3\nif it is not installed"):
        import_modules(["bad_env"], from_here=False)


def test_listing_imports_no_plugin_and_nothing_slow(site: Site) -> None:
    site.add("hostile", "raise SystemExit(9)")
    code = (
        "import sys; from rlkit_core.registry import Registry; Registry().entries(); "
        "print(sorted({'torch', 'mlflow', 'gymnasium', 'numpy', 'pluggy', 'rlkit_core.builtin', 'hostile', 'yaml'} "
        "& set(sys.modules)), 'vtrace' in Registry().names('estimator'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(site.folder)}
    )
    assert done.stdout == "[] True\n", done.stderr


# ---- where installed plugins are found ----


def _distribution(folder: Path) -> None:
    info = folder / "hidden-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hidden\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rlkit.estimator]\nhidden = hidden\n")


def test_plugins_in_an_archive_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _distribution(tmp_path / "content")
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "content")
    assert "hidden" not in Registry().names("estimator")
    monkeypatch.syspath_prepend(archive)
    assert Registry().find("estimator", "hidden").distribution == "hidden"


def test_plugins_that_another_finder_knows_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _distribution(tmp_path)

    class Finder:
        def find_spec(self, *_: object) -> None: ...

        def find_distributions(self) -> list[importlib.metadata.Distribution]:
            return [importlib.metadata.PathDistribution(tmp_path / "hidden-1.0.dist-info")]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert Registry().find("estimator", "hidden").version == "1.0"


def test_a_finder_that_raises_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, *_: object) -> None: ...

        def find_distributions(self) -> None:
            raise RuntimeError("no luck")

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert "lambda" in Registry().names("estimator")
