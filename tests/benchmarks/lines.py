"""Lines of code of PPO here and elsewhere, without blank lines, comments and docstrings.

    pip download --no-deps --dest wheels stable-baselines3==2.9.2 tianshou==2.0.1 skrl==2.1.1
    python tests/benchmarks/lines.py wheels        the table of docs/write-a-plugin.md

Nothing of the packages is installed or run: their files are read from the wheels.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = {
    "stable_baselines3": ("Stable-Baselines3", ["stable_baselines3/ppo/ppo.py"]),
    "tianshou": (
        "Tianshou",
        ["tianshou/algorithm/modelfree/ppo.py", "tianshou/algorithm/modelfree/a2c.py"],
    ),
    "skrl": ("skrl", ["skrl/agents/torch/ppo/ppo.py", "skrl/agents/torch/ppo/ppo_cfg.py"]),
}
"""By wheel: what it is called, and the files that PPO itself is in; Tianshou's derives from its A2C."""
OURS = (
    ("rlkit, as a stranger would", ["tests/benchmarks/short_ppo.py"]),
    (
        "rlkit, the PPO that comes along",
        [f"plugins/rlkit_ppo/{name}.py" for name in ("ppo", "config", "__init__")],
    ),
)


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, comments or docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        # A text that stands alone: a docstring, also one below an attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def row(name: str, files: dict[str, str]) -> str:
    """A line of the table."""
    counts = [(path, code_lines(source)) for path, source in files.items()]
    total = sum(count for _, count in counts)
    return f"| {name} | {total} | {', '.join(f'`{path}` {count}' for path, count in counts)} |"


def our_rows() -> list[str]:
    """Of this repository."""
    return [row(name, {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}) for name, paths in OURS]


def other_rows(folder: Path) -> list[str]:
    """Of the wheels in a folder."""
    rows = []
    for package, (name, paths) in OTHERS.items():
        [wheel] = folder.glob(f"{package}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            files = {path: archive.read(path).decode() for path in paths}
        rows.append(row(f"{name} {wheel.name.split('-')[1]}", files))
    return rows


if __name__ == "__main__":
    print("| PPO in | lines | files |\n| --- | --- | --- |")
    print("\n".join([*our_rows(), *other_rows(Path(sys.argv[1]))]))
