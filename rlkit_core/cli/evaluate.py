"""`rlkit eval RUN`: how good a run's policy is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from rlkit_core.cli.root import CONTEXT, AtLeast, common_options

if TYPE_CHECKING:
    from rlkit_core.evaluation import Evaluation

RESAMPLES = 10_000


def policy_options(command: click.Command) -> click.Command:
    """Add the options that say which policy acts, and where."""
    command.params += [
        click.Option(["--seed"], type=AtLeast(0), default=0, metavar="INT", help=_SEED),
        click.Option(
            ["--which"],
            type=click.Choice(["last", "best"]),
            default="last",
            metavar="CHOICE",
            help="the last policy, or the best of the run's own evaluations [last, best; default last]",
        ),
        click.Option(
            ["--max-steps"],
            type=AtLeast(1),
            metavar="INT",
            help="cut episodes off after so many steps; default: the run's eval_max_steps [at least 1]",
        ),
        click.Option(
            ["--import", "imports"],
            multiple=True,
            metavar="MODULE",
            help="module to import first, which registers the environment; may be given several times",
        ),
        *common_options(),
    ]
    return command


_SEED = "other seeds give other episodes; none are those of the run itself [at least 0; default 0]"


@click.command(
    "eval",
    context_settings=CONTEXT,
    help="Evaluate a run's policy greedily, over whole episodes that it has never seen.",
)
@click.argument("run", metavar="RUN")
@click.option(
    "--episodes",
    type=AtLeast(1),
    default=100,
    metavar="INT",
    help="how many [at least 1; default 100]",
)
@click.option("--json", "as_json", is_flag=True, help="print the numbers as JSON, with those of each episode")
def command(
    run: str, episodes: int, as_json: bool, seed: int, which: str, max_steps: int | None, imports: tuple[str, ...]
) -> None:
    """Evaluate and print."""
    from rlkit_core.evaluation import evaluate

    evaluation = evaluate(run, episodes=episodes, seed=seed, which=which, max_steps=max_steps, imports=imports)
    numbers = _numbers(evaluation)
    if as_json:
        every = {"returns": list(evaluation.returns), "lengths": list(evaluation.lengths)}
        click.echo(json.dumps({"run": run, "which": which, "seed": seed, **numbers, **every}, indent=2))
        return
    low, high = numbers["interval"]
    quartiles = "  ".join(f"{name} {numbers[name]:,.1f}" for name in ("min", "q25", "median", "q75", "max"))
    lengths = evaluation.lengths
    cut = f", {evaluation.num_cut} cut off" if evaluation.num_cut else ""
    click.echo(
        f"greedy return  {numbers['mean']:,.1f} over {len(lengths)} episode{'s' * (episodes > 1)}, {which} policy"
    )
    if episodes == 1:
        click.echo(f"length         {lengths[0]:,} steps{cut}")
        return
    click.echo(f"spread         std {numbers['std']:,.1f}  {quartiles}")
    click.echo(f"mean           {low:,.1f} to {high:,.1f} (95 % bootstrap interval)")
    click.echo(f"lengths        mean {numbers['mean_length']:,.1f}  min {min(lengths):,}  max {max(lengths):,}{cut}")


policy_options(command)


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Mean, spread and the interval of the mean: percentiles of the means of resampled returns."""
    import numpy as np

    returns = np.asarray(evaluation.returns)
    generator = np.random.default_rng(0)
    means = [returns[generator.integers(len(returns), size=len(returns))].mean() for _ in range(RESAMPLES)]
    return {
        "episodes": len(returns),
        "mean": evaluation.mean,
        "std": float(returns.std()),
        "min": float(returns.min()),
        "q25": evaluation.quantile(0.25),
        "median": evaluation.quantile(0.5),
        "q75": evaluation.quantile(0.75),
        "max": float(returns.max()),
        "interval": [float(limit) for limit in np.quantile(means, [0.025, 0.975])],
        "mean_length": float(np.mean(evaluation.lengths)),
        "episodes_cut": evaluation.num_cut,
    }
