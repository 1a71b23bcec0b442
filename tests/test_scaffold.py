"""`rlkit plugins new` and `rlkit plugins check`: what is written works as written, for every kind of part."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import venv
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from rlkit_core.cli.root import execute
from rlkit_core.errors import UsageError
from rlkit_core.registry import Registry
from rlkit_core.scaffold import KINDS, write_package

ROOT = Path(__file__).parents[1]
RUN = {
    "algorithm": ("my-algorithm", "--env", "CartPole-v1"),
    "estimator": ("a2c", "--env", "CartPole-v1", "--estimator", "my-estimator"),
    "network": ("a2c", "--env", "CartPole-v1", "--network", "my-network"),
    "collector": ("a2c", "--env", "CartPole-v1", "--collector", "my-collector"),
    "environment": ("a2c", "--env.name", "my-environment", "--env", "my-environment"),
    "tracker": ("a2c", "--env", "CartPole-v1", "--tracker", "my-tracker"),
}


def install(package: Path) -> None:
    """What an installation leaves for `importlib.metadata` to find, beside the package's module."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about)
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def environ(*folders: Path, **more: str) -> dict[str, str]:
    path = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **more}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """One package of each kind, written by the command, as if installed in this process."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        assert execute(["plugins", "new", f"my-{kind}", "--kind", kind, "--dir", str(folder)]) == 0
    written = {kind: folder / f"my-{kind}" for kind in KINDS}
    for package in written.values():
        install(package)
    before, modules = list(sys.path), set(sys.modules)
    variable = os.environ.get("PYTHONPATH")  # for the tracking process
    sys.path[:0] = [str(package) for package in written.values()]
    os.environ["PYTHONPATH"] = environ(*written.values())["PYTHONPATH"]
    yield written
    sys.path[:] = before
    if variable is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = variable
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


# ---- what is written works ----


@pytest.fixture(scope="module")
def own_tests(packages, tmp_path_factory):
    """How the tests of all packages end, run in one process of its own: a count of each outcome by kind."""
    folder = tmp_path_factory.mktemp("report")
    files = [package / "tests" for package in packages.values()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder]
    done = subprocess.run(
        [*command, f"--junitxml={folder / 'report.xml'}", *files],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=environ(*packages.values(), MLFLOW_DISABLE_TELEMETRY="true"),
    )
    found = {kind: Counter() for kind in KINDS}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        [kind] = [kind for kind in KINDS if f"test_my_{kind}" in case.get("classname", "")]
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        found[kind][outcome] += 1
    return found, done.stdout[-3000:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_that_are_written_pass(kind, own_tests):
    found, said = own_tests
    assert found[kind]["failure"] + found[kind]["error"] == 0, said
    assert found[kind]["passed"] > 10, said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_the_contract(kind, packages, rlkit):
    code, out, err = rlkit("plugins", "check", f"my-{kind}", "--json")
    assert code == 0, (out, err)
    outcomes = Counter(outcome["status"] for outcome in json.loads(out))
    assert outcomes["failed"] + outcomes["warned"] == 0, out
    assert outcomes["passed"] > 10


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_runs(kind, packages, rlkit, tmp_path):
    tracker = () if kind == "tracker" else ("--tracker", "none")
    settings = ("--total-steps", 1_000, "--progress", "none", "--run-dir", "run")
    code, out, err = rlkit("run", *RUN[kind], *tracker, *settings)
    assert code == 0, (out, err)
    config = (tmp_path / "run" / "config.json").read_text()
    assert f'"my-{kind}"' in config
    if kind == "tracker":
        lines = (tmp_path / "run" / "my-tracker.csv").read_text().splitlines()
        assert lines[0] == "step,time,metric,value"
        assert lines[-1].endswith(",state,finished")
        assert any("rollout/return" in line for line in lines)


def test_the_algorithm_learns(packages, rlkit):
    code, out, err = rlkit(
        *("run", *RUN["algorithm"], "--total-steps", 50_000, "--stop-at", 150),
        *("--tracker", "none", "--progress", "none", "--run-dir", "run"),
    )
    assert code == 0, err
    assert out.startswith("done: greedy return "), out


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_the_algorithm_learns_cartpole(seed, packages, rlkit, tmp_path):
    """The mean greedy return after 50,000 steps."""
    code, _, err = rlkit(
        *("run", *RUN["algorithm"], "--total-steps", 50_000, "--stop-at", "never", "--seed", seed),
        *("--tracker", "none", "--progress", "none", "--run-dir", "run"),
    )
    assert code == 0, err
    code, out, _ = rlkit("eval", "run", "--json")
    assert json.loads(out)["mean"] >= 150


def test_what_is_written_is_tidy(packages):
    """By ruff's rules of this repository, with a line's length from the package's own settings."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    ruff = [sys.executable, "-m", "ruff"]
    select = [f"--select={','.join(rules['select'])}", f"--ignore={','.join(rules['ignore'])}"]
    for package in packages.values():
        code, tests = package / package.name.replace("-", "_"), package / "tests"
        for command in (
            [*ruff, "check", "--no-cache", *select, code],
            [*ruff, "check", "--no-cache", *select, "--extend-ignore=D1", tests],
            [*ruff, "format", "--no-cache", "--check", package],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.long) for kind in KINDS])
def test_types_are_right(kind, packages, tmp_path):
    """By mypy with the settings that are written, which are strict."""
    command = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=packages[kind], env=environ(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_no_placeholder_is_left(kind, packages):
    files = [path for path in packages[kind].rglob("*") if path.is_file() and ".dist-info" not in str(path)]
    names = {path.relative_to(packages[kind]).as_posix() for path in files}
    module = f"my_{kind}"
    assert names == {
        *("pyproject.toml", "README.md", ".gitignore", f"tests/test_{module}.py"),
        *(f"{module}/{file}" for file in ("__init__.py", "config.py", f"{module}.py", "py.typed")),
    }
    for path in files:
        text = path.read_text()
        assert not re.search(r"my[_-]part|MyPart|some-", text), path
        if path.suffix == ".py":
            compile(text, path, "exec", flags=ast.PyCF_ONLY_AST)


@pytest.mark.long
def test_it_can_really_be_installed(tmp_path):
    """`pip install ./my-algo` into a fresh environment, beside the rlkit of this one."""
    execute(["plugins", "new", "my-algo", "--dir", str(tmp_path)])
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    here = [str(ROOT), str(ROOT / "plugins"), *(path for path in sys.path if path.endswith("-packages"))]
    (Path(site) / "rlkit.pth").write_text("\n".join(here))
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "./my-algo"]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    code = "import sys; from rlkit_core.cli.root import execute; sys.exit(execute(sys.argv[1:]))"
    settings = ["--total-steps", "50000", "--stop-at", "150", "--tracker", "none", "--progress", "none"]
    done = subprocess.run(
        [python, "-P", "-c", code, "run", "my-algo", "--env", "CartPole-v1", *settings],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path / "venv",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done: greedy return ")


# ---- the command ----


def test_it_says_what_to_do_next(rlkit, tmp_path):
    code, out, _ = rlkit("plugins", "new", "my-algo", "--dir", "work shop")
    assert code == 0
    assert out.splitlines() == [
        "install  pip install -e './work shop/my-algo'",
        "check    pytest './work shop/my-algo' && rlkit plugins check my-algo",
        "run      rlkit run my-algo --env CartPole-v1",
    ]
    assert (tmp_path / "work shop" / "my-algo" / "my_algo" / "my_algo.py").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My-Algo", "cannot be a plugin's name"),
        ("my_algo", "cannot be a plugin's name"),
        ("2fast", "cannot be a plugin's name"),
        ("../escape", "cannot be a plugin's name"),
        ("a/b", "cannot be a plugin's name"),
        ("my-", "cannot be a plugin's name"),
        ("my-algo\n", "cannot be a plugin's name"),
        ("x" * 61, "cannot be a plugin's name"),
        ("", "cannot be a plugin's name"),
        ("class", "Python has it"),
        ("json", "Python has it"),
        ("tests", "Python has it"),
        ("torch", "a module torch is installed"),
        ("rlkit-core", "a module rlkit_core is installed"),
        ("a2c", "is there already, from rlkit-core"),
    ],
)
def test_names_that_cannot_be_are_refused(name, says, rlkit, tmp_path):
    code, out, err = rlkit("plugins", "new", name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert 1 <= len(err.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(rlkit, tmp_path):
    (tmp_path / "my-algo").mkdir()
    (tmp_path / "my-link").symlink_to("nowhere")
    for name in ("my-algo", "my-link"):
        code, _, err = rlkit("plugins", "new", name)
        assert code == 2
        assert f"{name} exists already" in err
    assert list((tmp_path / "my-algo").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(rlkit, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = rlkit("plugins", "new", "my-algo", "--dir", "file")
    assert code == 6
    assert "cannot write file/my-algo" in err


def test_kinds_that_are_none_are_refused(rlkit):
    code, _, err = rlkit("plugins", "new", "my-algo", "--kind", "algoritm")
    assert code == 2
    assert "did you mean algorithm?" in err


def test_names_of_another_kind_may_be_the_same(tmp_path):
    assert write_package("mlp", "algorithm", tmp_path, Registry())
    with pytest.raises(UsageError, match="network mlp is there already"):
        write_package("mlp", "network", tmp_path / "other", Registry())


BROKEN = textwrap.dedent(
    '''
    from typing import ClassVar
    from rlkit_core import EstimatorConfig, ReturnEstimator, Returns, hookimpl

    class Broken(ReturnEstimator):
        def estimate(self, rollout, next_values, *, values=None, log_probs=None, update=True):
            return Returns(rollout.rewards.add_(1), rollout.rewards)

    class BrokenConfig(EstimatorConfig):
        """It writes into the rollout."""
        name: ClassVar[str] = NAME
        def build(self):
            return Broken()

    @hookimpl
    def rlkit_register():
        return [BrokenConfig]
    '''
)


def test_checks_that_fail_are_told(rlkit, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN.replace("NAME", '"broken"'))
    code, out, _ = rlkit("plugins", "check", "broken", "--plugin", "broken.py")
    assert code == 3
    lines = out.splitlines()
    failed = [line for line in lines if line.startswith("failed ")]
    assert any("estimator broken:" in line for line in failed), out
    assert f"{len(failed)} failed" in lines[-1]
    assert lines[-1].startswith("estimator broken, broken ")


def test_what_is_to_be_checked_is_found(rlkit, tmp_path):
    code, _, err = rlkit("plugins", "check", "lambd")
    assert code == 2
    assert "did you mean lambda?" in err
    code, _, err = rlkit("plugins", "check", "lambda", "--kind", "estimater")
    assert code == 2
    assert "did you mean estimator?" in err
    (tmp_path / "double.py").write_text(BROKEN.replace("NAME", '"mlp"'))
    code, _, err = rlkit("plugins", "check", "mlp", "--plugin", "double.py")
    assert code == 2
    assert "estimator, network" in err
    code, out, _ = rlkit("plugins", "check", "rlkit-core:lambda", "--kind", "estimator")
    assert code == 0
    assert out.splitlines()[-1].startswith("estimator lambda, rlkit-core ")
