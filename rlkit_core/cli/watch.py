"""`rlkit watch RUN`: see a run's policy at work, in a window or a video."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlkit_core.cli.evaluate import policy_options
from rlkit_core.cli.root import CONTEXT, AtLeast
from rlkit_core.errors import EnvironmentFault, StorageError, UsageError

if TYPE_CHECKING:
    from rlkit_core.component import EnvironmentConfig
    from rlkit_core.environment import Environments
    from rlkit_core.seeding import SeedStream

INSTALL = "pip install 'rlkit-core[render]'"


@click.command(
    "watch", context_settings=CONTEXT, help="Show a run's policy at work in a window, or write a video of it."
)
@click.argument("run", metavar="RUN")
@click.option("--episodes", type=AtLeast(1), default=1, metavar="INT", help="how many [at least 1; default 1]")
@click.option("--video", metavar="FILE", help="write a video instead of opening a window: FILE.mp4 or FILE.gif")
def command(
    run: str,
    episodes: int,
    video: str | None,
    seed: int,
    which: str,
    max_steps: int | None,
    imports: tuple[str, ...],
) -> None:
    """Render episodes, one after the other."""
    path = None if video is None else _video_path(video)
    if path is not None:
        os.environ.setdefault(
            "SDL_VIDEODRIVER", "dummy"
        )  # else pygame looks for a screen, and complains if there is none

    from rlkit_core.evaluation import open_run, play_episodes
    from rlkit_core.seeding import SeedStream, global_generators
    from rlkit_core.stored_policy import load_policy

    config = open_run(run, imports=imports)
    policy = load_policy(run, which=which)
    seeds = SeedStream(seed, "watch")
    mode = "human" if path is None else "rgb_array"
    with (
        _rendering(config.env.id),
        global_generators(seeds.stream("global")),
        _make(config.env, seeds, mode) as environments,
        contextlib.nullcontext() if path is None else _filming(environments, path),
    ):
        evaluation = play_episodes(policy, environments, episodes, max_steps or config.eval_max_steps)
    for number, (episode_return, length) in enumerate(zip(evaluation.returns, evaluation.lengths, strict=True), 1):
        click.echo(f"episode {number}: return {episode_return:,.1f} in {length:,} steps")
    if path is not None:
        click.echo(f"video  {path}")


policy_options(command)


def _video_path(video: str) -> Path:
    """The file to write; says at once what would keep it from being written."""
    path = Path(video)
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--video: the name should end in .mp4 or .gif, not {video}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--video: there is no folder {path.parent}")
    try:
        for module in ("imageio.v2", *(["imageio_ffmpeg"] if path.suffix == ".mp4" else [])):
            importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"a video needs a package that is not installed ({error.name})\n{INSTALL}") from error
    return path


@contextlib.contextmanager
def _rendering(env_id: str) -> Iterator[None]:
    """Say what to install, or that there is no screen, where rendering fails for it."""
    import gymnasium

    try:
        yield
    except (EnvironmentFault, UsageError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, gymnasium.error.DependencyNotInstalled):
                raise UsageError(
                    f"rendering {env_id} needs a package that is not installed: {cause}\n{INSTALL}"
                ) from error
            if type(cause).__module__.startswith("pygame"):
                raise UsageError(f"no window can be opened here: {cause}\nwrite a video: --video FILE.mp4") from error
            cause = cause.__cause__
        raise


def _make(env: EnvironmentConfig, seeds: SeedStream, mode: str) -> Environments:
    """Make one environment that renders; where it has no such render mode, say which it has."""
    try:
        environments = env.make_evaluation(1, seeds, render_mode=mode)
    except UsageError:
        # An environment that knows nothing of rendering does not even take the argument.
        with env.make_evaluation(1, seeds) as environments:
            _check_render_mode(environments, env.id, mode)
        raise
    _check_render_mode(environments, env.id, mode)
    return environments


def _check_render_mode(environments: Environments, env_id: str, mode: str) -> None:
    single = getattr(environments.vector_env, "envs", None) or [environments.vector_env]
    modes = single[0].metadata.get("render_modes") or []
    if mode not in modes:
        environments.close()
        known = ", ".join(modes) or "none"
        hint = "\nwrite a video: --video FILE.mp4" if "rgb_array" in modes else ""
        raise UsageError(f"environment {env_id} has no render mode {mode}; it has: {known}{hint}")


def _first(environments: Environments, env_id: str) -> Any:
    try:
        return environments.vector_env.envs[0]  # type: ignore[attr-defined]
    except (AttributeError, IndexError):
        raise UsageError(f"environment {env_id} gives no single environment to render") from None


@contextlib.contextmanager
def _filming(environments: Environments, path: Path) -> Iterator[None]:
    """Write a frame after each reset and step of the one environment."""
    import gymnasium
    import imageio.v2

    camera = _first(environments, path.name)

    class Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
        # Around the environment, not around the loop: there the last frame of an episode is gone already.
        def reset(self, **arguments: Any) -> Any:
            answer = self.env.reset(**arguments)
            writer.append_data(self.env.render())
            return answer

        def step(self, action: Any) -> Any:
            answer = self.env.step(action)
            writer.append_data(self.env.render())
            return answer

    fps = camera.metadata.get("render_fps") or 30
    # macro_block_size 1: the frames keep their size.
    options = {"fps": fps, "macro_block_size": 1} if path.suffix == ".mp4" else {"duration": 1000 / fps, "loop": 0}
    try:
        writer = imageio.v2.get_writer(path, **options)
        with writer:
            environments.vector_env.envs[0] = Filmed(camera)  # type: ignore[attr-defined]
            yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
