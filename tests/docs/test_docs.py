"""The docs are part of the product: what they show is run, and what there is to know is on them.

On a page, in order and in one folder: a block with a title is written to that file, a `python` block without one is
executed, and of a `console` block the lines `$ rlkit …` are run and their output compared, numbers aside; a line `...`
stands for any lines. A page's `pyproject.toml` makes its package count as installed. Blocks of other languages are not
run. The command is called in this process, which saves the import of torch each time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import json
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rlkit_core
from rlkit_core import errors, hookspecs
from rlkit_core.cli.root import COMMANDS, execute
from rlkit_core.component import KINDS
from rlkit_core.registry import OTHERS, Registry
from rlkit_core.scaffold import write_package

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOT_RUN = ("rlkit run ", "rlkit tune ", "rlkit watch")
"""Beginnings of `rlkit` lines that may stand in blocks that are not run: what takes long, and what needs a screen."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, title and text, and the line it begins at."""

    language: str
    title: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', text, re.MULTILINE | re.DOTALL)
    return [Block(m[2], m[3], inspect.cleandoc(m[4]) + "\n", text[: m.start()].count("\n") + 1) for m in found]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def runs(block: Block) -> bool:
    return block.language in ("python", "console") or block.title is not None


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("COLUMNS", "80"), ("SDL_VIDEODRIVER", "dummy"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
        monkeypatch.setenv(name, value)


def thorough(page: Path) -> bool:
    """Whether a page is one of many alike, for an algorithm or a part that comes along, or has long examples."""
    if page.parent.name in ("algorithms", "components"):
        return "a2c" not in page.name
    return page.name in ("plugins.md", "recurrent.md", "testing-plugins.md", "tune.md")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=shown(page), marks=pytest.mark.thorough if thorough(page) else [])
        for page in PAGES
        if any(map(runs, blocks(page)))
    ],
)
def test_what_a_page_shows_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    modules = set(sys.modules)
    namespace: dict[str, Any] = {"__name__": "docs"}
    try:
        for block in filter(runs, blocks(page)):
            where = f"{shown(page)}, line {block.line}"
            if block.title is not None:
                _write(tmp_path, block)
            elif block.language == "python":
                code = compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True)
                exec(code, namespace)
            else:
                _run_console(block.text, where)
    finally:
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]


def _write(folder: Path, block: Block) -> None:
    assert block.title is not None
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    if path.name == "pyproject.toml":
        # What an installation leaves for `importlib.metadata` to find.
        project = tomllib.loads(block.text)["project"]
        if path.parent != folder:
            sys.path.insert(0, str(path.parent))  # the page's fixture puts the path back
        info = path.parent / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(about, encoding="utf-8")
        lines = [
            line
            for group, points in project["entry-points"].items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def _run_console(text: str, where: str) -> None:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = command[:-1] + more.strip()
        if not command.startswith("rlkit "):
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = execute(shlex.split(command)[1:])
        said = output.getvalue().rstrip() + "\n"
        assert re.fullmatch(pattern(expected), said), f"{where}: {command}\nsays\n{said}\nand not\n{expected}"
        assert (code != 0) == bool(re.search("^error:", said, re.MULTILINE)), f"{where}: {command}"


def pattern(expected: str) -> str:
    """A regular expression for output like the expected one: numbers may differ, `...` and `…` stand for anything."""
    lines = []
    for line in expected.rstrip().splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        pieces = [re.escape(piece).replace(r"\ ", " ") for piece in re.split(r"-?\d[\d.,:e+-]*|\.\.\.|…", line)]
        marks = re.findall(r"-?\d[\d.,:e+-]*|\.\.\.|…", line)
        regex = pieces[0]
        for mark, piece in zip(marks, pieces[1:], strict=True):
            regex += (".*" if mark in ("...", "…") else r"-?\d[\d.,:e+-]*") + piece
        # Columns are as wide as their numbers.
        lines.append(re.sub(" {2,}", " +", regex).rstrip() + " *\n")
    return "".join(lines) or r"(?:.*\n)*"


def test_the_pattern_of_outputs() -> None:
    assert re.fullmatch(pattern("a 1,000 b\n...\nend -0.5 …\n"), "a 2.5 b\nx\ny\nend 1e-5 whatever\n")
    assert not re.fullmatch(pattern("a 1\nend\n"), "a 1\nx\nend\n")


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    hidden = [
        f"{shown(page)}:{block.line}: {line}"
        for page in PAGES
        for block in blocks(page)
        if not runs(block)
        for line in block.text.splitlines()
        if line.startswith("rlkit ") and not line.startswith(NOT_RUN)
    ]
    assert not hidden


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_runs_that_are_only_shown_could_be_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their options and values are understood: they are asked for their settings."""
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"\\\n", "", page.read_text(encoding="utf-8"))
    for line in re.findall(r"^(?:.*&& )?(rlkit run .*)$", text, re.MULTILINE):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = execute([*shlex.split(line)[1:], "--print-config"])
        assert code == 0, f"{line}\n{output.getvalue()}"


def test_the_tutorial_is_what_is_written(tmp_path: Path) -> None:
    """The files on the page are those of `rlkit plugins new my-awr`, and few lines."""
    page = {block.title: block.text for block in blocks(DOCS / "write-a-plugin.md")}
    written = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8")
        for path in write_package("my-awr", "algorithm", tmp_path, Registry())
    }
    for file, text in written.items():
        if file.endswith((".py", ".toml")):
            assert page.get(file) == text, file
    code_lines = _script(ROOT / "tests" / "benchmarks" / "lines.py").code_lines
    code = sum(code_lines(text) for file, text in written.items() if file.startswith("my-awr/my_awr/"))
    assert code < 60
    assert f" in {code} lines of code" in (DOCS / "write-a-plugin.md").read_text(encoding="utf-8")


def test_the_lines_of_ppo_are_up_to_date() -> None:
    text = (DOCS / "write-a-plugin.md").read_text(encoding="utf-8")
    for row in _script(ROOT / "tests" / "benchmarks" / "lines.py").our_rows():
        assert row in text, "run: python tests/benchmarks/lines.py wheels"


def test_the_readme_has_the_two_commands_each_alone_in_a_block() -> None:
    commands = [block.text.strip() for block in blocks(ROOT / "README.md") if block.language == "bash"]
    assert "pip install -c constraints.txt . && rlkit run a2c --env CartPole-v1" in commands
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in commands


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    missing = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert not [page for page in missing if page not in navigation]


def test_no_page_names_a_place_on_one_machine() -> None:
    for page in [*PAGES, DOCS / "example.ipynb"]:
        assert not re.search(r"/(work|tmp|root|home)/", page.read_text(encoding="utf-8")), page


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_components_are_up_to_date() -> None:
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.glob("components/*.md")}
    pages = _script(DOCS / "generate_components.py").pages()
    assert written | {"components.md"} == pages.keys()
    for path, text in pages.items():
        assert (DOCS / path).read_text(encoding="utf-8") == text, "run: python docs/generate_components.py"


def test_the_table_of_checks_is_up_to_date() -> None:
    written = (DOCS / "testing-plugins.md").read_text(encoding="utf-8")
    assert written == _script(DOCS / "generate_checks.py").with_table(written), "run: python docs/generate_checks.py"


def test_the_tables_of_results_are_up_to_date() -> None:
    written = (DOCS / "results.md").read_text(encoding="utf-8")
    scripts = DOCS.parent / "tests" / "benchmarks"
    results = json.loads((DOCS / "results.json").read_text(encoding="utf-8"))
    tables = _script(scripts / "results_page.py").tables(results, _script(scripts / "results.py").ROWS)
    for mark, content in tables.items():
        assert f"<!-- {mark} -->\n\n{content}\n\n<!-- end -->" in written, (
            "run: python tests/benchmarks/results.py page"
        )


def test_the_page_of_hooks_is_up_to_date() -> None:
    written = (DOCS / "hooks.md").read_text(encoding="utf-8")
    assert written == _script(DOCS / "generate_hooks.py").page(), "run: python docs/generate_hooks.py"
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("rlkit_")}
    assert [name for name, hook in hooks.items() if f"## {name}\n" not in written or not hook.__doc__] == []


def test_everything_that_a_plugin_can_bring_has_an_example_that_is_run() -> None:
    page = DOCS / "plugins.md"
    text = page.read_text(encoding="utf-8")
    assert [kind for kind in (*KINDS, *OTHERS) if f"\nGroup `rlkit.{kind}`" not in text] == []
    [project] = [tomllib.loads(block.text)["project"] for block in blocks(page) if block.title == "pyproject.toml"]
    elsewhere = {"rlkit.algorithm", "rlkit.estimator"}  # on the page that this one leads to, and in the README
    assert {f"rlkit.{kind}" for kind in (*KINDS, *OTHERS)} - elsewhere == set(project["entry-points"])
    typed = "".join(block.text for block in blocks(page) if block.language == "console")
    used = {name for group, points in project["entry-points"].items() for name in points}
    assert [name for name in used if not re.search(rf"^\$ rlkit .*\b{name}\b", typed, re.MULTILINE)] == []


def test_every_hook_has_its_place() -> None:
    text = (DOCS / "write-a-plugin.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(hookspecs) if name.startswith("rlkit_")]
    assert len(hooks) == 4
    assert [name for name in hooks if f"| `{name}` |" not in text] == []


def test_every_kind_has_its_entry_point_group() -> None:
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`rlkit.{kind}`" not in text] == []


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    homes = rlkit_core._MODULE_OF
    missing = [name for name in rlkit_core.__all__ if f"::: rlkit_core.{homes[name]}.{name}\n" not in text]
    missing = [name for name in missing if f"`{name}`" not in text]
    assert missing == []


def test_every_command_is_on_its_page() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"## rlkit {name}" not in text] == []


def test_every_command_kind_and_hook_has_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py") if path != Path(__file__))
    assert [name for name in COMMANDS if not re.search(rf"[\"' ]{name}[\"' ]", tests)] == []
    assert [name for name in (*KINDS, *OTHERS) if not re.search(rf"[\"'.]{name}[\"'\]]", tests)] == []
    hooks = [name for name in vars(hookspecs) if name.startswith("rlkit_")]
    assert [name for name in hooks if f"def {name}(" not in tests] == []


def test_every_error_is_on_its_page_with_its_exit_code() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.RlkitError)]
    assert len(classes) > 5
    assert [c.__name__ for c in classes if not re.search(rf"\| {c.exit_code} \|.*`{c.__name__}`", text)] == []


def test_every_journal_key_is_explained(tmp_path: Path) -> None:
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("metrics.md", "algorithms/a2c.md"))
    settings = {"total_steps": 600, "log_every": 256, "tracker": "none", "progress": "none"}
    keys = set()
    for stop_at in (1.0, 500.0):  # reached at the first confirmation, and not reached
        run_dir = tmp_path / str(stop_at)
        rlkit_core.train("a2c", env="CartPole-v1", **settings, stop_at=stop_at, run_dir=run_dir)
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        keys |= {key for line in lines for key in json.loads(line)["metrics"]}
    expected = {"rollout/return", "learner/loss", "evaluation/return", "confirmation_200/return", "final/return"}
    assert expected <= keys
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_every_file_of_a_run_folder_is_explained(tmp_path: Path) -> None:
    text = (DOCS / "run-folder.md").read_text(encoding="utf-8")
    run_dir = tmp_path / "run"
    train = rlkit_core.train
    train("a2c", env="CartPole-v1", total_steps=300, tracker="tensorboard", progress="none", run_dir=run_dir)
    diverging = {"algorithm": {"name": "a2c", "learning_rate": 1e30}}
    with pytest.raises(errors.Diverged):
        train(diverging, env="CartPole-v1", tracker="none", progress="none", run_dir=tmp_path / "failed")
    files = {path.name for path in [*run_dir.rglob("*"), *(tmp_path / "failed").rglob("*")] if path.is_file()}
    files = {name for name in files if not name.startswith("events.out.tfevents")}
    assert {"metrics.jsonl", "config.json", "policy.safetensors"} <= files
    assert sorted(name for name in files if f"`{name}`" not in text) == []
