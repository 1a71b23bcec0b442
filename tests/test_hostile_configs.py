"""Config files that were made to do harm, or by mistake: `rlkit run --config` refuses them at once and runs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import Child, refused
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.config import MAX_FILE_SIZE, RunConfig, read_config_file
from rlkit_core.errors import UsageError
from rlkit_core.registry import Registry

TOML = "seed = 3\nenv = 'CartPole-v1'\n[algorithm]\nname = 'a2c'\n"
N = MAX_FILE_SIZE
REGISTRY = Registry()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    base = tmp_path_factory.mktemp("configs")
    (base / "warm.toml").write_text(TOML + "[algorithm.network]\n")
    (base / "warm.json").write_text('{"algorithm": "a2c", "env": "CartPole-v1"}')
    (base / "warm.yaml").write_text("algorithm: a2c\nenv: CartPole-v1\n")
    (base / "wrong.toml").write_text(TOML + "learning_rat = 1\n")
    short = ["--total-steps", "64", "--collector.num-steps", "16", "--tracker", "none", "--progress", "none"]
    short += ["--eval-max-steps", "1", "--stop-at", "never"]
    warm = [["run", "--config", str(base / f"warm.{form}"), "--print-config"] for form in ("toml", "json", "yaml")]
    child = Child([*warm, ["run", "--config", str(base / "warm.toml"), *short]], base)
    child("run", "--config", base / "wrong.toml")  # what only refusals import
    child("run", "--config", base / "warm.toml", "--env", "CartPoel-v1")
    yield child
    child.close()


def toml(more: str) -> str:
    return TOML + more


def run_config(**more: Any) -> str:
    return json.dumps({"algorithm": {"name": "a2c"}, "env": {"id": "CartPole-v1"}, **more})


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("PWNED",)


DEEP: Any = 1
for _ in range(300):
    DEEP = {"a": DEEP}

FILES: dict[str, str | bytes] = {
    # YAML that makes objects, or gigabytes
    "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    "merge.yaml": "base: &b {seed: 1}\nenv:\n  <<: *b\n",
    "self.yaml": "&a [*a]",
    "apply.yaml": "!!python/object/apply:os.system ['touch PWNED']",
    "apply2.yaml": "seed: !!python/object/apply:os.mkdir ['PWNED']",
    "new.yaml": "seed: !!python/object/new:subprocess.Popen [['touch', 'PWNED']]",
    "name.yaml": "seed: !!python/name:os.system",
    "module.yaml": "seed: !!python/module:antigravity",
    "tuple.yaml": "imports: !!python/tuple [antigravity]",
    "tag.yaml": "env: !Environment {id: CartPole-v1}",
    "binary.yaml": "group: !!binary aGVsbG8=",
    "set.yaml": "env: !!set {CartPole-v1}",
    "documents.yaml": "seed: 1\n---\nseed: 2\n",
    "tab.yaml": "seed:\t1\n\tx: 2\n",
    "deep.yaml": "a: " + "[" * 20_000,
    "deep2.yaml": "- " * 10_000,
    "deep3.yaml": "{a: " * 5_000,
    "keys.yaml": "? [1, 2]\n: 3\n",
    "number.yaml": "1: 2\n",
    # the same in the other languages
    "deep.json": "[" * 20_000,
    "deep2.json": '{"a":' * 5_000,
    "deep3.json": json.dumps({"env": {"kwargs": DEEP}}),
    "deep.toml": "a = " + "[" * 20_000,
    "dots.toml": "a" + ".a" * 10_000 + " = 1",
    "twice.toml": "seed = 1\nseed = 2\n",
    "twice.json": '{"seed": 1, "seed": 2}',
    "twice.yaml": "seed: 1\nseed: 2\n",
    "twice-inside.json": '{"env": {"id": "a", "id": "b"}}',
    "cut.json": '{"seed": 1',
    "cut.toml": "seed = [1",
    "comment.json": '{"seed": 1} // no',
    "list.json": "[1]",
    "text.yaml": "hello",
    "empty.json": "",
    "empty.yaml": "",
    "null.json": "null",
    "large.toml": "# " + "x" * N,
    "nul.toml": b"\0" * 100,
    "nul2.toml": b"seed = 1\0",
    "latin.toml": "group = 'é'".encode("latin-1"),
    "utf-16.json": '{"seed": 1}'.encode("utf-16"),
    "bom.toml": b"\xef\xbb\xbfseed = 1",
    "pickle.toml": pickle.dumps(Bomb()),
    "half.json": '{"algorithm": "a2c", "env": "CartPole-v1", "group": "\\ud800"}',
    # numbers
    "digits.json": '{"seed": ' + "9" * 5_000 + "}",
    "digits.toml": "seed = " + "9" * 5_000,
    "digits.yaml": "seed: " + "9" * 5_000,
    "seed.toml": toml("").replace("seed = 3", "seed = -1"),
    "seed2.toml": toml("").replace("seed = 3", f"seed = {2**63}"),
    "seed3.json": run_config(seed=1.5),
    "seed4.json": run_config(seed="x"),
    "seed5.json": run_config(seed=[1]),
    "seed6.json": run_config(seed=None),
    "overflow.json": '{"algorithm": {"name": "a2c", "learning_rate": 1e999}, "env": "CartPole-v1"}',
    "nan.json": '{"algorithm": {"name": "a2c", "learning_rate": NaN}, "env": "CartPole-v1"}',
    "infinity.toml": toml("learning_rate = inf"),
    "steps.json": run_config(total_steps=0),
    "stop.json": run_config(stop_at="os.system"),
    "stop2.json": run_config(stop_at=[]),
    "threads.json": run_config(threads=10**400),
    "checkpoint.json": run_config(checkpoint_every="sometimes"),
    # names
    "unknown.toml": "sed = 1\n" + TOML,
    "unknown2.toml": toml("learning_rat = 0.1"),
    "unknown3.json": run_config(__class__="x"),
    "unknown4.json": run_config(**{"model_config": {"extra": "allow"}}),
    "group.toml": "group = '../../up'\n" + TOML,
    "group2.toml": "group = '/etc'\n" + TOML,
    "group3.json": run_config(group="x\0y"),
    "group4.json": run_config(group=5),
    "group5.json": run_config(group="x" * 5_000),
    "run.json": run_config(run_name="../../up"),
    "folder.json": run_config(run_dir="/etc/rlkit"),
    "algorithm.json": '{"algorithm": {"name": "os:system"}, "env": "CartPole-v1"}',
    "algorithm2.json": '{"algorithm": {"name": "../a2c"}, "env": "CartPole-v1"}',
    "algorithm3.json": '{"algorithm": {"name": ["a2c"]}, "env": "CartPole-v1"}',
    "algorithm4.json": '{"algorithm": 5, "env": "CartPole-v1"}',
    "algorithm5.json": '{"algorithm": {"name": "a2c\\u0000"}, "env": "CartPole-v1"}',
    "network.json": '{"algorithm": {"name": "a2c", "network": {"name": "mlp", "hidden": "x"}}, "env": "CartPole-v1"}',
    "network2.json": '{"algorithm": {"name": "a2c", "network": {"hidden": [-1]}}, "env": "CartPole-v1"}',
    "network4.json": run_config(algorithm={"name": "a2c", "network": {"hidden": [10**12]}}),
    "network5.json": run_config(algorithm={"name": "a2c", "network": {"hidden": [2**62]}}),
    "network6.json": run_config(algorithm={"name": "a2c", "network": {"hidden": [10**99]}}),
    "network3.json": '{"algorithm": {"name": "a2c", "network": []}, "env": "CartPole-v1"}',
    "env.json": run_config(env={"id": "../../CartPole-v1"}),
    "env2.json": run_config(env={"id": "hostile_module:CartPole-v1"}),
    "env3.json": run_config(env={"id": ["CartPole-v1"]}),
    "env4.json": run_config(env={"name": "gymnasium"}),
    "env5.json": run_config(env={"id": "CartPole-v1", "wrappers": ["os.system"]}),
    "env6.json": run_config(env={"id": "CartPole-v1", "wrappers": [{"name": "hostile_module:system"}]}),
    "env7.json": run_config(env={"id": "CartPole-v1", "kwargs": [1]}),
    "env8.json": run_config(env={"id": "CartPole-v1\0"}),
    "env9.json": run_config(env={"id": ""}),
    "env10.json": run_config(env={"id": "CartPole-v1", "timeout": -1}),
    "tracker.json": run_config(tracker={"name": "hostile_module"}),
    "tracker2.json": run_config(tracker={"name": "mlflow", "uri": 5}),
    # modules
    "imports.toml": "imports = ['hostile_module']\n" + TOML,
    "imports2.json": run_config(imports="hostile_module"),
    "imports3.json": run_config(imports=["../hostile_module"]),
    "imports4.json": run_config(imports=["hostile_module.py"]),
    "imports5.json": run_config(imports=[5]),
    "imports6.json": run_config(imports=["x\0"]),
    "imports7.json": run_config(imports=[""]),
    "imports8.json": run_config(imports=["."]),
    "hooks.json": run_config(hooks=["hostile_module"]),
    "hooks2.json": run_config(hooks=[["hostile_module"]]),
}
SUGGESTED = {"unknown.toml": "did you mean seed?", "unknown2.toml": "did you mean learning_rate?"}
HARMLESS = {"group.toml", "group2.toml", "group5.json"}
"""A group may have slashes: it is a name, and the folder's name has none. Nor is that as long."""


@pytest.mark.parametrize("name", FILES)
def test_hostile_files(name: str, child: Child, tmp_path: Path) -> None:
    content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    # Beside the child, which runs in the folder above all of these, and beside the file.
    for folder in (tmp_path, child.folder):
        (folder / "hostile_module.py").write_text("import os\nos.mkdir('PWNED')\n")
    if name in HARMLESS:
        answer = child("run", "--config", path, "--tracker", "none", "--total-steps", "16", "--stop-at", "never",
                       "--eval-max-steps", "1", "--progress", "none", "--collector.num-steps", "4")  # fmt: skip
        assert answer["code"] == 0, answer
        assert not answer["events"], answer
        return
    codes = [3] if name == "hooks.json" else [2]  # a plugin that cannot be imported
    quiet = [] if name.startswith("tracker") else ["--tracker", "none"]
    err = refused(child("run", "--config", path, *quiet), codes, seconds=1)
    assert SUGGESTED.get(name, "") in err
    assert not list(child.folder.rglob("PWNED"))
    assert not (tmp_path / "PWNED").exists()


def pipe(path: Path) -> None:
    os.mkfifo(path)


PLACES: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": pipe,
    "missing": lambda path: None,
    "link to nothing": lambda path: path.symlink_to("/nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to passwd": lambda path: path.symlink_to("/etc/passwd"),
    "link to zero": lambda path: path.symlink_to("/dev/zero"),
    "link to null": lambda path: path.symlink_to("/dev/null"),
    "link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "sparse": lambda path: (path.touch(), os.truncate(path, 10**12)),
}


@pytest.mark.parametrize("form", ["toml", "json", "yaml"])
@pytest.mark.parametrize("what", PLACES)
def test_what_is_no_file(what: str, form: str, child: Child, tmp_path: Path) -> None:
    path = tmp_path / f"c.{form}"
    PLACES[what](path)
    err = refused(child("run", "--config", path), [2], seconds=1)
    assert str(path) in err


def test_every_setting_of_another_type(child: Child, tmp_path: Path) -> None:
    """Each setting of a run in turn as a number, a text, a list and a table, as far as it does not take those."""
    path = tmp_path / "c.json"
    for name in RunConfig.model_fields:
        for value in (-5, 0.5, "\n", [[]], {"a": {}}, [{}], True):
            path.write_text(run_config(**{name: value}))
            answer = child("run", "--config", path, "--print-config")
            if answer["code"]:
                refused(answer, [2], seconds=1)
            assert not answer["events"]


# ---- anything ----

TEXTS = st.text(max_size=8) | st.sampled_from(["a2c", "mlp", "CartPole-v1", "lambda", "none", "../..", "x\0", "\ud800"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*RunConfig.model_fields, "name", "id", "kwargs", "network", "hidden", "wrappers"]) | TEXTS,
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(ANYTHING)
def test_any_json_is_a_config_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(data))
    with contextlib.suppress(UsageError):
        RunConfig.parse(read_config_file(path), registry=REGISTRY)


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="ignore")))
@pytest.mark.parametrize("form", ["toml", "json", "yaml"])
def test_any_bytes_are_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, form: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{form}"
    path.write_bytes(content)
    with contextlib.suppress(UsageError):
        assert isinstance(read_config_file(path), dict)
