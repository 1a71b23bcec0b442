"""A plugin in a package of its own, from its wheel and rlkit's in a fresh environment, from installation to removal.

The environment sees the heavy packages of the one that runs the tests, which saves their download; rlkit and the plugin
come from the wheels alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).with_name("package")
SHORT = ("--env", "CartPole-v1", "--total-steps", "2000", "--stop-at", "never")

pytestmark = pytest.mark.long


class Environment:
    """A fresh virtual environment, and what is run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "environment"
        self.work = folder / "work"
        self.work.mkdir()
        hidden = ("PYTHONPATH", "MLFLOW_TRACKING_URI", "RLKIT_PLUGINS", "VIRTUAL_ENV")
        self.environ = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith("COV")}
        self.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "100"}
        self.run(sys.executable, "-m", "venv", self.folder)

    def run(self, *command: object, code: int = 0) -> str:
        """Run a command, which has to end with that code, and return all that it says."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.work,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def pip(self, *arguments: object) -> str:
        return self.run(self.folder / "bin" / "python", "-m", "pip", *arguments)

    def rlkit(self, *arguments: object, code: int = 0) -> str:
        return self.run(self.folder / "bin" / "rlkit", *arguments, code=code)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("outside")
    environment = Environment(folder)
    for source in (ROOT, PACKAGE):
        environment.pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheels", source)
    [ours] = (folder / "wheels").glob("rlkit_core-*.whl")
    [theirs] = (folder / "wheels").glob("rlkit_outside-*.whl")
    environment.pip("install", "--no-deps", ours)
    # After it, or pip would take rlkit for installed there.
    site = next(environment.folder.glob("lib/python*/site-packages"))
    (site / "heavy.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    environment.pip("install", "-c", ROOT / "constraints.txt", theirs)
    return environment


def test_a_plugin_from_outside(environment: Environment) -> None:
    rlkit, work = environment.rlkit, environment.work
    modules = "rlkit_core, rlkit_outside, rlkit_a2c"
    where = f"import {modules}\nfor module in ({modules}): print(module.__file__)"
    for file in environment.run(environment.folder / "bin" / "python", "-c", where).splitlines():
        assert Path(file).is_relative_to(environment.folder)

    # It is there.
    assert "plain-gradient  rlkit-outside 1.2.3" in rlkit("list", "algorithm")
    assert "rlkit-outside 1.2.3  algorithm plain-gradient; estimator clipped; hooks stop-after" in rlkit(
        "plugins", "list"
    )
    assert "plain-gradient" in rlkit("run", "--help")
    assert rlkit("show", "plain-gradient").startswith("plain-gradient: algorithm from rlkit-outside 1.2.3")
    assert "largest size of a reward" in rlkit("show", "clipped")
    [found] = json.loads(rlkit("plugins", "doctor", "rlkit-outside", "--json"))
    assert found["verdict"] == "ok", found
    assert found["run_hooks"] == ["rlkit_iteration_finished", "rlkit_run_finished", "rlkit_run_started"]
    text = rlkit("run", "plain-gradient", "--help")
    assert "--learning-rate" in text
    assert "--estimator.limit" in text
    wrong = rlkit("run", "plain-gradient", *SHORT, "--estimator.limit", "no", code=2)
    assert wrong.startswith("error: --estimator.limit: should be a valid number")

    # It works, alone and with our own.
    rlkit("run", "plain-gradient", *SHORT, "--run-dir", "mine")
    rlkit("run", "a2c", *SHORT, "--run-dir", "mixed", "--estimator", "clipped", "--hooks", "stop-after")
    assert "rlkit-outside has seen 1" in (work / "mixed" / "stopped.txt").read_text()
    assert "greedy return" in rlkit("eval", "mine", "--episodes", "5")
    assert "going on" in rlkit("resume", "mine", "--total-steps", "3000")
    for run in ("mine", "mixed"):
        about = json.loads((work / run / "provenance.json").read_text())
        versions = {plugin["distribution"]: plugin["version"] for plugin in about["plugins"]}
        assert versions["rlkit-outside"] == "1.2.3"
        assert json.loads((work / run / "config.json").read_text())["requires"] == {"rlkit-outside": "1.2.3"}

    # MLflow knows whose it is.
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'rlkit/CartPole-v1'")
    runs = client.search_runs([experiment.experiment_id], "tags.`plugin.rlkit-outside` = '1.2.3'")
    assert {run.data.params["algorithm.name"] for run in runs} == {"plain-gradient", "a2c"}

    # It goes, and what needs it says so; what does not is unharmed.
    environment.pip("uninstall", "--yes", "rlkit-outside")
    for command in (
        ("eval", "mine"),
        ("resume", "mine", "--total-steps", "4000"),
        ("run", "--config", "mine/config.json"),
        ("eval", "mixed"),
        ("run", "--config", "mixed/config.json"),
    ):
        assert rlkit(*command, code=3).splitlines() == [
            "error: this needs rlkit-outside 1.2.3, which is not installed or not allowed",
            "       get it with: pip install rlkit-outside==1.2.3",
        ]
    assert "rlkit-outside" not in rlkit("plugins", "list")
    assert "mine" in rlkit("runs", ".")
    rlkit("run", "a2c", *SHORT, "--tracker", "none")
