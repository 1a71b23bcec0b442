"""Evaluation: a policy's greedy returns over whole episodes, in fresh environments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rlkit_core.component import EnvironmentConfig
from rlkit_core.config import RunConfig
from rlkit_core.environment import Environments, first_non_finite
from rlkit_core.policy import Policy, StatefulPolicy
from rlkit_core.registry import Registry, import_modules
from rlkit_core.rollout import Episode, Tree, tree_map, tree_where
from rlkit_core.run_folder import RunFolder, read_json
from rlkit_core.seeding import SeedStream, global_generators
from rlkit_core.stored_policy import load_policy


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave.

    Attributes:
        returns: undiscounted return of each episode.
        lengths: steps of each episode.
        num_cut: episodes that were cut off at the evaluation's own limit; they count with their return so far.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    num_cut: int = 0

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def surely(self) -> float:
        """Mean return less its standard error: what is reached not just by a lucky draw of episodes."""
        return self.mean - float(np.std(self.returns)) / math.sqrt(len(self.returns))

    def quantile(self, q: float) -> float:
        """Quantile of the returns, `q` from 0 to 1."""
        return float(np.quantile(self.returns, q))

    def metrics(self, prefix: str) -> dict[str, float]:
        """What the journal keeps, each name after `prefix/`."""
        return {
            f"{prefix}/return": self.mean,
            f"{prefix}/return_std": float(np.std(self.returns)),
            f"{prefix}/return_min": min(self.returns),
            f"{prefix}/return_median": self.quantile(0.5),
            f"{prefix}/return_max": max(self.returns),
            f"{prefix}/episode_length": float(np.mean(self.lengths)),
            f"{prefix}/episodes": float(len(self.returns)),
            f"{prefix}/episodes_cut": float(self.num_cut),
        }


def evaluate_policy(
    policy: Policy, env: EnvironmentConfig, seeds: SeedStream, num_episodes: int, max_steps: int
) -> Evaluation:
    """Run the policy's mode, without sampling, for a number of episodes, each to its end.

    Every episode that is started counts, however long it takes: counting the first that finish would favour short ones.

    Args:
        policy: acts without a generator.
        env: makes the environments.
        seeds: where their seeds come from; the caller's own generators are neither read nor changed.
        num_episodes: how many.
        max_steps: an episode is cut off after that many steps.

    Raises:
        EnvironmentFault: an environment raised or gave a non-finite number.
    """
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        with global_generators(seeds.stream("global")), env.make_evaluation(num_episodes, seeds) as environments:
            return play_episodes(policy, environments, num_episodes, max_steps)
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def play_episodes(policy: Policy, environments: Environments, num_episodes: int, max_steps: int) -> Evaluation:
    """Play whole episodes in given environments; see `evaluate_policy`."""
    N = environments.num_envs
    finished: list[Episode] = []
    num_cut = 0
    while len(finished) < num_episodes:  # again only if episodes were cut in all lanes
        obs = environments.reset()
        started = min(N, num_episodes - len(finished))
        # A lane whose episode was cut has not been reset: it starts no other one that counts.
        num_left = num_episodes - len(finished) - started
        counted = np.arange(N) < started  # [N] the lane's present episode counts
        starts = np.ones(N, dtype=np.bool_)
        state: Tree = None
        while counted.any():
            _refuse_non_finite(environments, obs, np.arange(N), "obs")
            seen = obs if policy.takes_arrays else tree_map(torch.from_numpy, obs)
            if isinstance(policy, StatefulPolicy):
                if starts.any():
                    initial = policy.initial_state(N)
                    state = initial if state is None else tree_where(torch.from_numpy(starts), initial, state)
                act = policy.act(seen, state, torch.from_numpy(starts))
                state = act.state
            else:
                act = policy.act(seen)
            if act.refused is not None:
                environments.refuse(*act.refused)
            step = environments.step(tree_map(lambda leaf: leaf.cpu().numpy(), act.action))
            obs, starts = step.obs, step.starts
            _refuse_non_finite(environments, step.rewards, np.arange(N), "reward")
            if step.final_obs is not None:
                _refuse_non_finite(environments, step.final_obs, step.ended_lanes, "final obs")
            for lane, episode in zip(step.ended_lanes, step.episodes, strict=True):
                if counted[lane]:
                    finished.append(episode)
                    counted[lane] = num_left > 0
                    num_left -= int(counted[lane])
            for lane in (counted & (environments.step_in_episode >= max_steps)).nonzero()[0]:
                if lane not in step.ended_lanes:
                    finished.append(Episode(float(environments.return_so_far[lane]), max_steps))
                    counted[lane] = False
                    num_cut += 1
    returns, lengths = zip(*finished, strict=True)
    return Evaluation(returns, lengths, num_cut)


def _refuse_non_finite(environments: Environments, tree: Tree, lanes: np.ndarray, key: str) -> None:
    """Raise EnvironmentFault where a tree `[K, ...]`, whose rows belong to those lanes, has a non-finite number."""
    found = first_non_finite(tree_map(lambda leaf: leaf[None], tree), key)
    if found is not None:
        raise environments.fault(int(lanes[found[0][1]]), f"{found[1]}, in evaluation")


def open_run(run: str | Path, *, imports: Sequence[str] = (), registry: Registry | None = None) -> RunConfig:
    """The settings of a stored run, with the modules imported that register its environment.

    Args:
        run: the run folder.
        imports: modules that the caller vouches for, besides the installed ones that the run names itself.
        registry: where components are looked up; default: what is installed.

    Raises:
        UsageError: there is no such run, or a module it needs is not installed.
        ConfigError, PluginError: its settings need parts that are not there.
    """
    data = read_json(RunFolder.open(run).config_path)
    import_modules(imports, from_here=True)
    names = data.get("imports") if isinstance(data, dict) else None
    if isinstance(names, list):  # what is none is refused below
        import_modules([str(name) for name in names if name not in imports], from_here=False)
    return RunConfig.parse(data, registry=registry or Registry())


def evaluate(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = 0,
    which: str = "last",
    max_steps: int | None = None,
    imports: Sequence[str] = (),
    registry: Registry | None = None,
) -> Evaluation:
    """Evaluate a run's stored policy greedily, in its environment, on seeds that the run never used.

    Args:
        run: the run folder.
        episodes: how many.
        seed: of this evaluation: another one gives other episodes.
        which: `last` or `best` policy.
        max_steps: cut episodes off after that many steps; default: the run's `eval_max_steps`.
        imports: modules to import first; see `open_run`.
        registry: where components are looked up; default: what is installed.
    """
    config = open_run(run, imports=imports, registry=registry)
    policy = load_policy(run, which=which, registry=registry)
    # No run's own stream has this name, so the episodes are new to it.
    seeds = SeedStream(seed, "evaluate")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return evaluate_policy(policy, config.env, seeds, episodes, max_steps or config.eval_max_steps)
    finally:
        torch.set_num_threads(threads)
