"""Provenance: what a run's record says of its surroundings, and what it keeps to itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit_core.config import RunConfig
from rlkit_core.provenance import command_line, hash_of_module, provenance
from rlkit_core.registry import Registry


def of(**settings: object) -> dict[str, object]:
    registry = Registry()
    layer = {"algorithm": "a2c", "env": "CartPole-v1", **settings}
    return provenance(RunConfig.parse(layer, registry=registry), registry, run_name="r", preset="p")


def test_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rlkit", "run", "a2c", "--group", "two words"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_env.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    said = of(seed=3, threads=2, imports=["my_env"])
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert (said["run_name"], said["preset"], said["seed"], said["threads"]) == ("r", "p", 3, 2)
    assert said["command"] == "rlkit run a2c --group 'two words'"
    assert said["cwd"] == str(tmp_path)
    assert said["git"] is None
    assert {"rlkit-core", "torch", "python"} <= set(said["versions"])  # type: ignore[call-overload]
    assert {plugin["module"] for plugin in said["plugins"]} == {"rlkit_a2c", "rlkit_core.builtin"}  # type: ignore[attr-defined]
    assert said["modules"] == {"my_env": hash_of_module("my_env")}
    assert said["core_files_sha256"] == hash_of_module("rlkit_core")
    assert said["run_id"] != of()["run_id"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tracker.uri", "http://me:SECRET@host/path"],
        ["--tracker.uri=postgresql://me:SE@CRET@host:5/db"],
        ["--uri", "https://SECRET@host"],
        ["--tracker.token", "SECRET"],
        ["--tracker.api-key=SECRET"],
        ["--env.kwargs", "password=SECRET,gravity=5"],
        ["--env.kwargs", '{"api_key": "SECRET", "a": 1}'],
        ["--uri", "http://host/?access_token=SECRET&x=1"],
        ["--db-PASSWORD", "SECRET"],
    ],
)
def test_secrets_are_not_stored(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rlkit", *arguments])
    assert "SECRET" not in json.dumps(of()).replace("--db-PASSWORD", "")
    assert "CRET" not in command_line(arguments)


def test_what_is_no_secret_is_shown() -> None:
    arguments = ["rlkit", "run", "--env", "CartPole-v1", "--tracker.uri", "http://host:5000/a", "--group", "a@b"]
    assert command_line(arguments) == " ".join(arguments)


def test_hashes_follow_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "hashed_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "a.py", "inner/b.py"):
        (package / name).write_text(name)
    (tmp_path / "hashed_module.py").write_text("x = 1")
    hashes = {hash_of_module("hashed_package")}
    single = hash_of_module("hashed_module")
    assert single is not None
    (package / "data.txt").write_text("no code")
    assert hash_of_module("hashed_package") in hashes
    for change in (
        lambda: (package / "inner" / "b.py").write_text("changed"),
        lambda: (package / "a.py").rename(package / "c.py"),
        lambda: (package / "d.py").write_text(""),
    ):
        change()
        now = hash_of_module("hashed_package")
        assert now not in hashes
        hashes.add(now)
    (tmp_path / "hashed_module.py").write_text("x = 2")
    assert hash_of_module("hashed_module") != single
    assert [hash_of_module(name) for name in ("not_there", "sys", "not_there.at_all", "")] == [None] * 4
    assert "hashed_package" not in sys.modules


def test_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    git("init")
    assert of()["git"] is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "m")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").write_text("every run leaves files")
    assert of()["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert of()["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert of()["git"] is None


def test_a_component_that_is_not_registered_has_no_plugin() -> None:
    from rlkit_a2c.config import A2CConfig

    class Own(A2CConfig):
        """Mine."""

    registry = Registry()
    config = RunConfig.parse({"algorithm": Own(), "env": "x"}, registry=registry)
    said = provenance(config, registry, run_name="r", preset=None)
    assert {plugin["module"] for plugin in said["plugins"]} == {"rlkit_core.builtin"}
