"""Writes the table of docs/testing-plugins.md: every check of plugins. Run it after changing one.

python docs/generate_checks.py
"""

from __future__ import annotations

from pathlib import Path

from rlkit_core.component import KINDS
from rlkit_core.testing.checks import all_checks

PAGE = Path(__file__).with_name("testing-plugins.md")
BEGIN, END = "<!-- checks: written by docs/generate_checks.py -->", "<!-- end -->"


def table() -> str:
    """All checks, by the kinds that they are for."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in all_checks():
        text = one.description.replace("|", "\\|")
        groups.setdefault(one.kinds, []).append(f"| `{one.name}` | {text} |")
    lines = []
    for kinds, rows in groups.items():
        lines += [f"### {_title(kinds)}", "", "| check | what is promised |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _title(kinds: tuple[str, ...]) -> str:
    if len(kinds) == len(KINDS):
        return "All kinds"
    missing = [kind for kind in KINDS if kind not in kinds]
    if len(missing) < len(kinds):
        return f"All kinds but {', '.join(missing[:-1])} and {missing[-1]}"
    return f"Kind {' and '.join(kinds)}"


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
