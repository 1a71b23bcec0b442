"""`rlkit sweep FILE`: algorithms × environments × settings × seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rlkit_core.cli.group import (
    GroupCommand,
    check_environments,
    compute_plan,
    parse_seeds,
    progress_option,
    seeds_text,
)
from rlkit_core.cli.root import CONTEXT, AtLeast, common_options, import_option
from rlkit_core.errors import UsageError
from rlkit_core.registry import Registry, import_modules
from rlkit_core.sweep import Sweep, read_sweep


@click.command(
    "sweep",
    cls=GroupCommand,
    context_settings=CONTEXT,
    help="Train all combinations of algorithms, environments and settings that a file names, each with several seeds. "
    "Started again it goes on with what is missing.",
    epilog='A file of three lines will do: seeds = 5, algorithm = ["a2c", "ppo"], env = ["CartPole-v1"].',
)
@click.argument("file", metavar="FILE")
@click.option("--group", metavar="NAME", help="name of the group; default: the file's `name`, else its own")
@click.option("--run-dir", metavar="DIR", help="folder of the group; default: the one of its name in runs/")
@click.option("--jobs", type=AtLeast(1), metavar="INT", help="runs computed at the same time; default: the cores")
@click.option("--print-plan", is_flag=True, help="print what would be computed, and do nothing")
@import_option
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    group: str | None,
    run_dir: str | None,
    jobs: int | None,
    print_plan: bool,
    imports: tuple[str, ...],
    progress: str,
) -> int:
    """Read the file, and compute what it asks for."""
    registry = Registry()
    sweep = read_sweep(Path(file), registry, parse_seeds, name=group, imports=imports)
    import_modules(imports, from_here=True)
    named = [name for part in sweep.parts for name in part.config.imports if name not in imports]
    import_modules(list(dict.fromkeys(named)), from_here=False)
    try:
        check_environments([part.config for part in sweep.parts])
    except UsageError as error:
        raise UsageError(f"{file}: env: {error}") from error
    if print_plan:
        click.echo("\n".join(_plan(sweep)))
        return 0
    from rlkit_core.group import PlanEntry

    plan = [PlanEntry(config, part.preset, part.variant) for part in sweep.parts for config in part.configs()]
    command = ctx.command
    assert isinstance(command, GroupCommand)
    folder = None if run_dir is None else Path(run_dir)
    return compute_plan(folder, sweep.name, plan, registry, command.chosen_executor(), jobs, imports, progress)


def _plan(sweep: Sweep) -> Sequence[str]:
    """What would be computed, as a table."""
    rows = [("group", "environment", "seeds", "steps", "preset")]
    for part in sweep.parts:
        config = part.config
        group = config.resolved_group
        rows.append((group, config.env.id, seeds_text(part.seeds), f"{config.total_steps:,}", part.preset or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    runs = sum(len(part.seeds) for part in sweep.parts)
    steps = sum(len(part.seeds) * part.config.total_steps for part in sweep.parts)
    return [*lines, f"{runs} runs, {steps:,} environment steps in all"]


command.params.append(progress_option())
command.params.extend(common_options())
