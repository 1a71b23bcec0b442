"""Strangers' plugins, through the command: they are used like our own, and harm nobody who does not name them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import strangers
from strangers import ALGORITHM, HARM, THIEF, install

from rlkit_core.provenance import hash_of_module

RLKIT = str(Path(sys.executable).with_name("rlkit"))
SHORT = ("--env", "CartPole-v1", "--tracker", "none", "--total-steps", "300", "--stop-at", "never", "--progress=none")
POLICY = "policy/last/policy.safetensors"

Call = Callable[..., tuple[int, str, str]]
Works = Callable[..., str]
Refused = Callable[..., list[str]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first on the path; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("MLFLOW_TRACKING_URI", "RLKIT_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry]
    yield
    sys.path[:] = before


@pytest.fixture
def refused(rlkit: Call) -> Refused:
    """Run the command, expect an error, and return its lines without the indentation."""

    def call(*arguments: object, code: int = 3) -> list[str]:
        got, out, err = rlkit(*arguments)
        assert got == code, (out, err)
        assert err.startswith("error: ")
        assert "Traceback" not in err
        lines = [line.strip() for line in err.removeprefix("error: ").splitlines()]
        assert len(lines) <= 3
        return lines

    return call


@pytest.fixture
def works(rlkit: Call) -> Works:
    """Run the command, expect that it works, and return what it prints."""

    def call(*arguments: object) -> str:
        code, out, err = rlkit(*arguments)
        assert code == 0, (out, err)
        return out

    return call


def made_with(run: str) -> dict[str, dict[str, str]]:
    """The plugins in a run's record, by module."""
    return {plugin["module"]: plugin for plugin in json.loads(Path(run, "provenance.json").read_text())["plugins"]}


def process(*arguments: object, path: Path | None) -> SimpleNamespace:
    """Run the real command with a folder on Python's path."""
    places = [str(path)] * (path is not None) + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [RLKIT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=240, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


# ---- hostile ones, all installed at once ----


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nine")
    strangers.install_hostile(folder)
    return folder


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ten")
    strangers.install_hostile(folder)
    strangers.install_thief(folder)
    return folder


@pytest.mark.thorough
def test_a_run_is_the_same_to_the_bit_whatever_else_is_installed(nine: Path, ten: Path, tmp_path: Path) -> None:
    policies = []
    for number, (algorithm, path) in enumerate([("a2c", None), ("a2c", nine), ("rlkit-core:a2c", ten)]):
        done = process("run", algorithm, *SHORT, "--run-dir", str(number), path=path)
        assert done.code == 0, done.err
        assert "hostile" not in done.out + done.err
        policies.append((tmp_path / str(number) / POLICY).read_bytes())
    assert policies[0] == policies[1] == policies[2]
    assert json.loads((tmp_path / "2" / "config.json").read_text())["algorithm"]["name"] == "rlkit-core:a2c"


@pytest.mark.thorough
def test_the_doctor_finds_what_is_wrong_with_each(ten: Path) -> None:
    done = process("plugins", "doctor", "--json", path=ten)
    assert done.code == 3, done.err
    found = {one["distribution"]: one for one in json.loads(done.out)}
    expected = {name: verdict for name, (verdict, _) in HARM.items()} | {THIEF: "name", "rlkit-core": "ok"}
    assert {name: one["verdict"] for name, one in found.items()} == expected
    assert all(one["reason"] and one["advice"] for name, one in found.items() if name != "rlkit-core")
    assert {one["version"] for name, one in found.items() if name != "rlkit-core"} == {"1.0"}
    assert found["hostile-slow"]["seconds"] >= 5
    assert found["hostile-hangs"]["seconds"] is found["hostile-crashes"]["seconds"] is None
    assert "torch.nn.functional.linear" in found["hostile-patches"]["reason"]
    assert "RuntimeError: no luck" in found["hostile-raises"]["reason"]
    assert "SIGSEGV" in found["hostile-crashes"]["reason"]
    assert "rlkit_run_begun" in found["hostile-hook"]["reason"]


def test_listing_and_help_name_all_and_import_none(nine: Path, works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(nine))
    rows = {row["distribution"]: row for row in json.loads(works("plugins", "list", "--json"))}
    assert rows.keys() == {*HARM, "rlkit-core"}
    kinds = [offer["kind"] for offer in rows["hostile-crashes"]["offers"]]
    assert sorted(kinds) == ["algorithm", "command", "hooks"]
    text = works("plugins", "list")
    assert all(f"{name} 1.0" in text for name in HARM)
    assert "From hostile-raises 1.0." in works("--help")
    assert all(name in works("run", "--help") for name in HARM)
    assert all(name in works("list", "algorithm") for name in HARM)
    assert works("run", "a2c", "--help").startswith("Usage: rlkit run a2c")
    assert works("show", "a2c").startswith("a2c: algorithm from rlkit-core")
    assert not {name.replace("-", "_") for name in HARM} & sys.modules.keys()


REFUSED = {
    "hostile-raises": "RuntimeError: no luck",
    "hostile-exits": "SystemExit: 0",
    "hostile-config": "bare has no description",
    "hostile-interface": "version 99 of rlkit's interface",
    "hostile-hook": "unknown hook 'rlkit_run_begun'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_that_is_named_says_what_is_wrong(name: str, site: Path, refused: Refused) -> None:
    strangers.install_hostile(site)
    for arguments in (("run", name, *SHORT), ("run", name, "--help")):
        lines = refused(*arguments)
        assert lines[0].startswith(f"plugin {name} 1.0")
        assert REFUSED[name] in lines[0]
        assert len(lines) > 1  # what to do
    assert not Path("runs").exists()


def test_hooks_and_commands_of_a_broken_one(site: Path, refused: Refused) -> None:
    strangers.install_hostile(site)
    for arguments in (("run", "a2c", *SHORT, "--hooks", "hostile-raises-hooks"), ("hostile-raises-command",)):
        assert refused(*arguments)[0].startswith("plugin hostile-raises 1.0 cannot be imported: RuntimeError: no luck")
    assert not Path("runs").exists()


@pytest.mark.parametrize("first", [True, False])
def test_a_name_that_two_offer(first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    strangers.install_thief(tmp_path / "site")
    monkeypatch.setattr(
        sys, "path", [*[str(tmp_path / "site")] * first, *sys.path, *[str(tmp_path / "site")] * (not first)]
    )
    lines = refused("run", "a2c", *SHORT)
    assert lines == [
        "algorithm a2c is offered by rlkit-core and thief",
        "name it in full: rlkit-core:a2c or thief:a2c",
    ]
    assert "thief" not in sys.modules


# ---- which are allowed ----

TELLS = """
import pathlib
pathlib.Path("imported").touch()
import click
from rlkit_core import hookimpl

@hookimpl
def rlkit_run_finished(step): ...

@click.command()
def say(): click.echo("said")
"""


@pytest.mark.parametrize("how", ["variable", "option", "option first"])
def test_what_is_not_allowed_is_not_imported(
    how: str, site: Path, refused: Refused, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = (
        "[rlkit.algorithm]\ntells = tells\n[rlkit.estimator]\ntells = tells\n[rlkit.hooks]\ntells = tells\n"
        "[rlkit.presets]\na2c = tells\n[rlkit.command]\ntells = tells:say\n"
    )
    install(site, "tells", TELLS + ALGORITHM.format(name="tells"), points)
    if how == "variable":
        monkeypatch.setenv("RLKIT_PLUGINS", "another, thing")
    before, after = {"option first": (["--no-plugins"], [])}.get(how, ([], ["--no-plugins"] * (how == "option")))
    for arguments, kind in (
        (("run", "tells", *SHORT), "algorithm"),
        (("run", "a2c", *SHORT, "--estimator", "tells"), "estimator"),
        (("run", "a2c", *SHORT, "--hooks", "tells"), "hooks"),
    ):
        text = " ".join(refused(*before, *arguments, *after, code=2))
        assert f"there is no {kind} named tells among the plugins that are allowed" in text
        assert "RLKIT_PLUGINS" in text
    assert refused(*before, "tells", *after, code=2)[0] == "there is no command tells"
    for arguments in (("--help",), ("list",), ("plugins", "list"), ("show", "a2c"), ("run", "a2c", "--help")):
        assert "tells" not in works(*before, *arguments, *after)
    works(*before, "run", "a2c", *SHORT, *after)
    assert not Path("imported").exists()
    assert os.environ.get("RLKIT_PLUGINS") == ("another, thing" if how == "variable" else None)  # as it was


def test_what_is_allowed_works(site: Path, works: Works, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "my-plugin", ALGORITHM.format(name="mine"), {"algorithm": "mine"})
    install(site, "other", ALGORITHM.format(name="another"), {"algorithm": "another"})
    monkeypatch.setenv("RLKIT_PLUGINS", "My_Plugin")
    works("run", "mine", *SHORT)
    refused("run", "another", *SHORT, code=2)


# ---- a plugin that is a file ----


def test_a_plugin_file_is_used_like_an_installed_one(
    tmp_path: Path, rlkit: Call, works: Works, refused: Refused
) -> None:
    file = tmp_path / "elsewhere" / "filed.py"
    file.parent.mkdir()
    file.write_text(ALGORITHM.format(name="filed"))
    plugin = ("--plugin", file)
    assert "filed" in works("list", "algorithm", *plugin)
    assert works("show", "filed", *plugin).startswith("filed: algorithm from filed")
    assert "filed" in works(*plugin, "run", "--help")
    works(*plugin, "run", "filed", *SHORT, "--run-dir", "run")
    about = made_with("run")["filed"]
    assert about["distribution"] == "filed"
    assert json.loads(Path("run/config.json").read_text())["requires"] == {"filed.py": "file"}
    assert "greedy return" in works("eval", "run", "--episodes", "2", f"--plugin={file}")
    # Without it, what is missing is named, and how to give it.
    for arguments in (
        ("eval", "run"),
        ("resume", "run", "--total-steps", "600"),
        ("run", "--config", "run/config.json"),
    ):
        assert refused(*arguments) == [
            "this needs the plugin file filed.py, which is not given",
            "give it with --plugin PATH/filed.py",
        ]
    works("resume", "run", "--total-steps", "600", *plugin)
    works("run", "--config", "run/config.json", *plugin, "--run-dir", "again")
    assert made_with("again")["filed"] == about
    assert about["files_sha256"] is not None
    # Other bytes are another plugin: a resumed run would not be what it was.
    file.write_text(file.read_text() + "\n# changed\n")
    code, _, err = rlkit("resume", "run", "--total-steps", "900", *plugin)
    assert code == 7
    assert re.search(r"^files of plugin filed .* changes results$", err, re.MULTILINE)
    assert "filed" not in sys.modules


def test_the_hash_of_a_plugin_file_is_that_of_its_module(tmp_path: Path, site: Path, works: Works) -> None:
    (site / "filed.py").write_text(ALGORITHM.format(name="filed"))
    works("run", "filed", *SHORT, "--run-dir", "run", "--plugin", site / "filed.py")
    assert made_with("run")["filed"]["files_sha256"] == hash_of_module("filed")


def test_hooks_in_a_plugin_file(tmp_path: Path, works: Works) -> None:
    Path("spying.py").write_text(TELLS)
    works("run", "a2c", *SHORT, "--plugin", "spying.py", "--hooks", "spying", "--run-dir", "run")
    assert json.loads(Path("run/provenance.json").read_text())["modules"]["spying"]


def test_a_tracker_in_a_plugin_file(works: Works) -> None:
    """It lives in the tracking process, which has to be given the file too; and later `rlkit sync` has."""
    Path("filed.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        from typing import ClassVar
        from rlkit_core import Tracker, TrackerConfig, hookimpl

        class Lines(Tracker):
            def start(self, run):
                self.file = Path(run.folder.path, "lines")

            def log(self, records):
                with self.file.open("a") as file:
                    file.writelines(f"{record['step']}\\n" for record in records)

            def finish(self, state, time):
                with self.file.open("a") as file:
                    file.write(f"{state}\\n")

        class LinesConfig(TrackerConfig):
            "Steps, a line each."
            name: ClassVar[str] = "lines"

            def build(self):
                return Lines()

        @hookimpl
        def rlkit_register():
            return [LinesConfig]
        """)
    )
    arguments = [*SHORT, "--tracker", "lines", "--run-dir", "run", "--plugin", "filed.py"]
    assert "warning" not in works("run", "a2c", *arguments)
    lines = Path("run/lines").read_text().splitlines()
    assert lines[-1] == "finished"
    assert len(lines) > 1
    works("sync", "run", "--plugin", "filed.py")
    assert Path("run/lines").read_text().splitlines() == [*lines, "finished"]


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        (None, 2, "there is no such Python file"),
        ("raise RuntimeError('no luck')", 3, "plugin broken.py cannot be imported: RuntimeError: no luck"),
        ("raise SystemExit(0)", 3, "plugin broken.py cannot be imported: SystemExit: 0"),
        ("x = 1\ndef (", 3, "SyntaxError: invalid syntax"),
        ("x = 1", 3, "plugin broken: module broken has no hook rlkit_register"),
        ("rlkit_interface = 99", 3, "plugin broken is made for version 99 of rlkit's interface"),
    ],
)
def test_a_plugin_file_that_is_broken(source: str | None, code: int, said: str, refused: Refused) -> None:
    if source is not None:
        Path("broken.py").write_text(source)
    for arguments in (("list",), ("run", "a2c", *SHORT)):
        assert said in refused(*arguments, "--plugin", "broken.py", code=code)[0]
        assert "broken" not in sys.modules
    assert not Path("runs").exists()


def test_a_plugin_file_must_have_a_name_of_its_own(refused: Refused) -> None:
    for name in ("json.py", "torch.py", "a-b.py"):
        Path(name).write_text("")
        assert refused("list", "--plugin", name, code=2)[-1] == "rename the file"
    assert refused("list", "--plugin", code=2)[0] == "--plugin needs a value"


# ---- hooks, presets, a sub-command ----


def test_announced_hooks_act_when_named(site: Path, works: Works, refused: Refused) -> None:
    install(site, "spy", TELLS, {"hooks": "watch-it"})
    install(site, "bare", "x = 1", {"hooks": "bare"})
    works("run", "a2c", *SHORT)
    assert not Path("imported").exists()
    works("run", "a2c", *SHORT, "--hooks", "watch-it", "--run-dir", "run")
    assert Path("imported").exists()
    assert made_with("run")["spy"]["version"] == "1.0"
    assert json.loads(Path("run/provenance.json").read_text())["modules"] == {}
    assert json.loads(Path("run/config.json").read_text())["requires"] == {"spy": "1.0"}
    assert "has no run hook" in refused("run", "a2c", *SHORT, "--hooks", "bare")[0]
    install(site, "second", TELLS, {"hooks": "watch-it"})
    lines = refused("run", "a2c", *SHORT, "--hooks", "watch-it")
    assert lines[-1] == "name it in full: second:watch-it or spy:watch-it"
    works("run", "a2c", *SHORT, "--hooks", "spy:watch-it")


PRESET = """
[{name}]
description = "a small network"
environments = ["CartPole-v1"]
algorithm = {{ network = {{ hidden = [8] }} }}
"""


def offer_preset(site: Path, distribution: str, name: str) -> None:
    module = install(site, distribution, "", {})
    (site / f"{module}.py").unlink()
    (site / module).mkdir()
    (site / module / "__init__.py").write_text("raise RuntimeError('presets need no import')")
    (site / module / "presets.toml").write_text(PRESET.format(name=name))
    info = site / f"{module}-1.0.dist-info"
    (info / "entry_points.txt").write_text(f"[rlkit.presets]\na2c = {module}\n")


def hidden(run: str) -> list[int]:
    return json.loads(Path(run, "config.json").read_text())["algorithm"]["network"]["hidden"]


def test_presets_of_a_stranger_are_for_those_who_name_them(site: Path, works: Works, refused: Refused) -> None:
    offer_preset(site, "small-nets", "tiny")
    works("run", "a2c", *SHORT, "--run-dir", "unnamed")
    works("run", "a2c", *SHORT, "--run-dir", "named", "--preset", "tiny")
    works("run", "a2c", *SHORT, "--run-dir", "full", "--preset", "small-nets:tiny")
    assert hidden("unnamed") != [8]
    assert hidden("named") == hidden("full") == [8]
    assert json.loads(Path("named/provenance.json").read_text())["preset"] == "small-nets:tiny"
    assert made_with("named")["small_nets"]["distribution"] == "small-nets"
    assert "small_nets" not in made_with("unnamed")
    assert "Preset small-nets:tiny" in works("show", "a2c")
    assert "small-nets:tiny" in refused("run", "a2c", *SHORT, "--preset", "tny", code=2)[-1]
    offer_preset(site, "other-nets", "tiny")
    assert refused("run", "a2c", *SHORT, "--preset", "tiny")[-1] == (
        "name it in full: other-nets:tiny or small-nets:tiny"
    )
    works("run", "a2c", *SHORT, "--run-dir", "still", "--preset", "small-nets:tiny")
    (site / "other_nets" / "presets.toml").write_text("[tiny")
    works("run", "a2c", *SHORT, "--run-dir", "unharmed")
    works("run", "a2c", *SHORT, "--run-dir", "too", "--preset", "tiny")
    works("show", "a2c")
    for name in ("other-nets:tiny", "absent"):
        assert refused("run", "a2c", *SHORT, "--preset", name)[0].startswith("plugin other-nets 1.0: ")
    (site / "other_nets-1.0.dist-info" / "entry_points.txt").write_text("[rlkit.presets]\na2c = nowhere\n")
    works("run", "a2c", *SHORT, "--run-dir", "either")
    assert "nowhere, which is not there" in refused("run", "a2c", *SHORT, "--preset", "absent")[0]


def test_a_sub_command(site: Path, works: Works, refused: Refused) -> None:
    install(site, "teller", TELLS, "[rlkit.command]\ntell = teller:say\nrun = teller:say\n")
    install(site, "absent", "x = 1", "[rlkit.command]\ngone = absent:say\nnumber = absent:x\n")
    text = works("--help")
    assert re.search("^  tell +From teller 1.0.$", text, re.MULTILINE)
    assert re.search("^  run +Train an algorithm", text, re.MULTILINE)
    assert not Path("imported").exists()
    assert works("tell") == "said\n"
    assert works("teller:tell") == "said\n"
    works("run", "a2c", *SHORT)  # ours cannot be taken
    assert "absent 1.0 announces the command gone as 'absent:say', which is not there" in refused("gone")[0]
    assert refused("number")[0] == "the command number is a int, not a click command"
    assert refused("tel", code=2)[1].startswith("did you mean tell?")
    install(site, "teller-two", TELLS, "[rlkit.command]\ntell = teller_two:say\n")
    assert "name it in full: teller:tell or teller-two:tell" in refused("tell")[-1]
    assert works("teller:tell") == "said\n"


# ---- what is no longer there ----


def test_stored_runs_say_which_plugin_is_gone(
    site: Path, works: Works, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "leaver", ALGORITHM.format(name="leaves"), {"algorithm": "leaves"}, version="2.3")
    works("run", "leaves", *SHORT, "--run-dir", "run")
    assert json.loads(Path("run/config.json").read_text())["requires"] == {"leaver": "2.3"}
    works("eval", "run", "--episodes", "2")
    expected = ["this needs leaver 2.3, which is not installed or not allowed", "get it with: pip install leaver==2.3"]
    commands = (
        ("eval", "run"),
        ("resume", "run", "--total-steps", "600"),
        ("run", "--config", "run/config.json"),
        ("run", "leaves", "--config", "run/config.json"),
    )
    for arguments in commands:
        assert refused(*arguments, "--no-plugins") == expected
    del sys.modules["leaver"]
    site.rename(tmp_path / "away")
    for arguments in commands:
        assert refused(*arguments) == expected
    (tmp_path / "away").rename(site)
    works("resume", "run", "--total-steps", "600")


def test_stored_runs_need_a_part_in_a_slot_too(site: Path, works: Works, refused: Refused) -> None:
    source = """
    from typing import ClassVar
    from rlkit_core import hookimpl
    from rlkit_core.builtin.estimators import LambdaConfig

    class Mine(LambdaConfig):
        "Lambda-returns under another name."
        name: ClassVar[str] = "mine"

    @hookimpl
    def rlkit_register():
        return [Mine]
    """
    install(site, "parts", source, {"estimator": "mine"})
    works("run", "a2c", *SHORT, "--estimator", "mine", "--run-dir", "run")
    assert json.loads(Path("run/config.json").read_text())["requires"] == {"parts": "1.0"}
    assert refused("eval", "run", "--no-plugins")[0].startswith("this needs parts 1.0")
