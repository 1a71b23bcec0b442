"""The command `rlkit`, from its arguments to what it prints, leaves and exits with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import gymnasium
import pytest
import yaml
from made_runs import BEGAN, config_of, make_run

from rlkit_core.cli.root import execute
from rlkit_core.cli.settings import Form, facts
from rlkit_core.config import RunConfig
from rlkit_core.evaluation import evaluate
from rlkit_core.progress import PlainProgress
from rlkit_core.registry import Registry
from rlkit_core.run_folder import last_record, write_json
from rlkit_core.tracking import TrackingProcess

RLKIT = str(Path(sys.executable).with_name("rlkit"))
ALGORITHMS = "a2c, dqn, ppo, reinforce, sac, td3"
CARTPOLE = ("run", "a2c", "--env", "CartPole-v1", "--tracker", "none")
SHORT = (*CARTPOLE, "--total-steps", "300", "--collector.num-steps", "16", "--stop-at", "never")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry]  # an earlier test may have let modules of its folder count
    yield
    sys.path[:] = before


@pytest.fixture
def refused(rlkit):
    """Run the command, expect an error, and return its lines without the indentation."""

    def call(*arguments, code=2):
        got, out, err = rlkit(*arguments)
        assert got == code, (out, err)
        assert err.startswith("error: ")
        assert "Traceback" not in err
        return [line.strip() for line in err.removeprefix("error: ").splitlines()]

    return call


@pytest.fixture
def printed(rlkit):
    """The config that arguments make, through `--print-config`."""

    def call(*arguments):
        code, out, err = rlkit(*arguments, "--print-config")
        assert code == 0, err
        return tomllib.loads(out)

    return call


def process(*arguments, path=None, **more):
    environ = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run(
        [RLKIT, *map(str, arguments)], capture_output=True, text=True, env=environ, timeout=60, **more
    )


def distribution(folder: Path, name: str, module: str, source: str, *parts: str) -> None:
    """An installed distribution: its metadata and one module, beside each other in a folder on the path."""
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"[rlkit.{kind}]\n{part} = {module}\n" for kind, _, part in (entry.partition(":") for entry in parts)]
    (info / "entry_points.txt").write_text("\n".join(lines))


HOSTILE = "import os\nopen(os.environ.get('HOSTILE_MARK', os.devnull), 'w').write('x')\nraise RuntimeError('no luck')\n"

ENVIRONMENTS = """
    import gymnasium, numpy as np
    from gymnasium import spaces

    class Base(gymnasium.Env):
        observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        action_space = spaces.Discrete(2)
        t = 0
        def obs(self): return np.zeros(2, np.float32)
        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return np.zeros(2, np.float32), {}
        def step(self, action):
            self.t += 1
            return self.obs(), 1.0, self.t >= 10, False, {}

    class Nan(Base):
        def obs(self): return np.array([0.0, np.nan], np.float32)

    class Shape(Base):
        def obs(self): return np.zeros(3, np.float32)

    class Raises(Base):
        def obs(self): raise KeyError("door")

    class Text(Base):
        action_space = spaces.Text(3)

    for cls in (Base, Nan, Shape, Raises, Text):
        gymnasium.register(f"Cli{cls.__name__}-v0", cls)
"""


# ---- help ----


def test_root_help_names_every_command(rlkit):
    code, out, _ = rlkit("--help")
    assert code == 0
    for name in ("run", "eval", "watch", "list", "show", "sync"):
        assert f"\n  {name} " in out
    assert rlkit() == (0, out, "")
    assert rlkit("--version")[1].startswith("rlkit-core ")


def test_help_shows_each_group_with_text_bounds_and_default(rlkit):
    code, out, _ = rlkit("run", "a2c", "--help")
    assert code == 0
    for heading in ("Environment gymnasium", "Run", "Algorithm a2c", "Collector steps", "Estimator discounted"):
        assert f"\n{heading}:\n" in out
    for heading in ("Network mlp", "Tracker mlflow", "This command"):
        assert f"\n{heading}:\n" in out
    flat = " ".join(out.split())
    assert "--env ID" in flat
    assert "step size of Adam [above 0; default 0.003]" in flat
    assert "[0 to 1; default 0.99]" in flat
    assert "[episodes, steps; default steps]" in flat
    assert "[cpu, cuda, auto; default cpu]" in flat
    assert "budget in environment steps [at least 1; default 200_000]" in flat


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(rlkit, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (("--help",), ("run", "--help"), ("run", "a2c", "--help"), ("eval", "--help"), ("show", "a2c")):
        _, out, _ = rlkit(*arguments)
        assert max(map(len, out.splitlines())) <= columns


def test_options_follow_what_is_in_the_slots(rlkit):
    assert "--estimator.gae-lambda" not in rlkit("run", "a2c", "--help")[1]
    out = rlkit("run", "a2c", "--estimator", "lambda", "--help")[1]
    assert "--estimator.gae-lambda" in out
    assert "[discounted, lambda; here lambda]" in " ".join(out.split())
    Path("c.yaml").write_text("algorithm: {estimator: lambda, learning_rate: 0.25}")
    out = rlkit("run", "a2c", "--config", "c.yaml", "--help")[1]
    assert "--estimator.gae-lambda" in out
    assert "default 0.25" in out
    out = rlkit("run", "a2c", "--preset", "notebook", "--help")[1]
    assert "--collector.num-steps" not in out
    assert "Collector episodes:" in out
    assert "with the preset notebook" in out


def test_shell_completion_gives_names(monkeypatch):
    def complete(*words):
        monkeypatch.setenv("COMP_WORDS", " ".join(("rlkit", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv("_RLKIT_COMPLETE", "bash_complete")
        return process().stdout.split()

    assert "plain,watch" in complete("")
    assert complete("run", "a2c", "--estimator.gam") == ["plain,--estimator.gamma"]
    assert complete("run", "a2c", "--estimator", "l") == ["plain,lambda"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["run", "--help"], ["run", "a2c", "--help"], ["show", "a2c"], ["run", "a2c", "--se"]],
)
def test_help_imports_neither_torch_nor_mlflow_nor_a_strangers_plugin(tmp_path, arguments):
    distribution(tmp_path, "hostile", "hostile_plugin", HOSTILE, "algorithm:hostile", "estimator:hostile")
    script = (
        "import sys\nfrom rlkit_core.cli.root import execute\nexecute(sys.argv[1:])\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'torch', 'mlflow', 'gymnasium', 'numpy', 'hostile_plugin', 'rich', 'yaml'}))"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "HOSTILE_MARK": str(tmp_path / "mark")}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done
    assert not (tmp_path / "mark").exists()
    if arguments == ["--help"]:
        probe = script.replace("& {", "& {'pydantic', 'pluggy', ")
        done = subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True, text=True, env=environ)
        assert done.stdout.splitlines()[-1] == "[]"


def test_training_imports_nothing_that_takes_longer_than_itself(tmp_path):
    """The optimiser classes, and backward with an argument, make torch import its compiler and sympy: over a second."""
    script = (
        "import sys\nfrom rlkit_core.cli.root import execute\nassert execute(sys.argv[1:]) == 0\n"
        "print(sorted({'torch._dynamo', 'sympy', 'mlflow', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    options = [
        "--total-steps",
        "20000",
        "--collector.num-envs",
        "512",
        "--collector.num-steps",
        "8",
        "--tracker",
        "none",
    ]
    command = [sys.executable, "-c", script, "run", "a2c", "--env", "CartPole-v1", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done


def test_profile(rlkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--total-steps", "2000", "--stop-at", "never", "--tracker", "none", "--profile"]
    code, out, _ = rlkit("run", "a2c", "--env", "CartPole-v1", *options)
    assert code == 0
    rows = out.split("without evaluations:\n")[1].splitlines()
    assert [row.split()[0] for row in rows] == [
        *("environment", "acting", "collecting", "returns", "updating", "recording"),
    ]
    assert sum(float(row.split()[1]) for row in rows) == pytest.approx(100, abs=0.5)


# ---- list, show ----


def test_list(rlkit):
    code, out, _ = rlkit("list")
    assert code == 0
    assert "algorithm    a2c" in out
    kinds = json.loads(rlkit("list", "estimator", "--json")[1])
    assert [entry["name"] for entry in kinds] == ["discounted", "lambda"]
    assert kinds[0]["distribution"] == "rlkit-core"


def test_show(rlkit):
    code, out, _ = rlkit("show", "a2c")
    assert code == 0
    assert "a2c: algorithm from rlkit-core" in out
    assert "step size of Adam [float; above 0; default 0.003]" in out
    assert "Preset notebook:" in out
    part = json.loads(rlkit("show", "rlkit-core:mlp", "--json")[1])[0]
    hidden = next(setting for setting in part["settings"] if setting["name"] == "hidden")
    assert hidden["type"] == "list of int"
    assert isinstance(hidden["default"], list)


def test_a_name_of_several_kinds_is_shown_for_all(rlkit, tmp_path, monkeypatch):
    source = """
        from typing import ClassVar
        from rlkit_core.hookspecs import hookimpl
        from rlkit_core.component import TrackerConfig
        class Spy(TrackerConfig):
            '''Sees all.'''
            name: ClassVar[str] = "mlp"
            def build(self): raise NotImplementedError
        @hookimpl
        def rlkit_register():
            return [Spy]
    """
    distribution(tmp_path, "spy", "spy_plugin", source, "tracker:mlp")
    monkeypatch.syspath_prepend(tmp_path)
    _, out, _ = rlkit("show", "mlp")
    assert "mlp: network from rlkit-core" in out
    assert "mlp: tracker from spy 1.2" in out
    assert "Sees all." in out


def test_list_and_show_what_is_not_there(refused):
    assert refused("list", "estimatr")[0] == "there is no kind estimatr; did you mean estimator?"
    assert refused("show", "a2d")[0] == "nothing is registered as a2d; did you mean a2c?"


# ---- options ----


def test_options_reach_their_settings(printed):
    config = printed(
        *CARTPOLE,
        *(
            "--seed",
            7,
            "--device",
            "auto",
            "--stop-at",
            "12.5",
            "--group",
            "none",
            "--import",
            "one",
            "--import",
            "two",
        ),
        *(
            "--learning-rate",
            "0.001",
            "--max-grad-norm",
            "none",
            "--normalize-observations",
            "--normalize-advantages=false",
        ),
        *(
            "--collector.num-envs",
            "16",
            "--estimator",
            "lambda",
            "--estimator.gae-lambda",
            "0.9",
            "--estimator.gamma=0.5",
        ),
        *("--network.hidden", "64,32", "--env.kwargs", "gravity=5,name=x", "--env.kwargs", '{"deep": [1, 2]}'),
        *(
            "--env.wrappers",
            "FrameStackObservation:stack_size=4,padding_type=zero",
            "--env.wrappers",
            "FlattenObservation",
        ),
        *("--env.max-episode-steps", "100"),
    )
    assert config["seed"] == 7
    assert config["stop_at"] == 12.5
    assert config["group"] == "none"  # any text may be a name
    assert config["imports"] == ["one", "two"]
    algorithm = config["algorithm"]
    assert algorithm["learning_rate"] == 0.001
    assert algorithm["max_grad_norm"] == "none"
    assert algorithm["normalize_observations"] is True
    assert algorithm["normalize_advantages"] is False
    assert algorithm["collector"]["num_envs"] == 16
    assert algorithm["estimator"]["name"] == "lambda"
    assert algorithm["estimator"]["gae_lambda"] == 0.9
    assert algorithm["estimator"]["gamma"] == 0.5
    assert algorithm["network"]["hidden"] == [64, 32]
    env = config["env"]
    assert env["kwargs"] == {"gravity": 5, "name": "x", "deep": [1, 2]}
    assert env["wrappers"][0] == {"name": "FrameStackObservation", "stack_size": 4, "padding_type": "zero"}
    assert env["wrappers"][1] == {"name": "FlattenObservation"}
    assert env["max_episode_steps"] == 100
    assert config["tracker"] == {"name": "none"}


def test_other_spellings(printed):
    config = printed(*CARTPOLE, "--total_steps", "1_000", "--collector.num_envs=2", "--network.hidden", "[5, 6]")
    assert config["total_steps"] == 1000
    assert config["algorithm"]["collector"]["num_envs"] == 2
    assert config["algorithm"]["network"]["hidden"] == [5, 6]
    config = printed(*CARTPOLE, "--preset", "notebook", "--estimator.ddof", "0", "--max-grad-norm", "null")
    assert config["algorithm"]["estimator"]["ddof"] == 0


@pytest.mark.parametrize("name", ["c.toml", "c.yaml", "c.json"])
def test_config_file_with_options_winning(printed, name):
    data = {
        "seed": 3,
        "env": "Acrobot-v1",
        "algorithm": {"learning_rate": 0.5, "entropy_coef": 0.125, "collector": {"num_steps": 9}},
    }
    toml = (
        'seed = 3\nenv = "Acrobot-v1"\n'
        "[algorithm]\nlearning_rate = 0.5\nentropy_coef = 0.125\ncollector = { num_steps = 9 }\n"
    )
    texts = {"c.toml": toml, "c.yaml": yaml.safe_dump(data), "c.json": json.dumps(data)}
    Path(name).write_text(texts[name])
    config = printed("run", "a2c", "--config", name, "--learning-rate", "0.25", "--collector.num-envs", "2")
    assert config["seed"] == 3
    assert config["env"]["id"] == "Acrobot-v1"
    assert config["algorithm"]["learning_rate"] == 0.25
    assert config["algorithm"]["entropy_coef"] == 0.125
    assert config["algorithm"]["collector"] == {"name": "steps", "num_envs": 2, "num_steps": 9}


def test_layers_preset_file_options(printed):
    Path("c.toml").write_text("seed = 5\n[algorithm]\nvalue_coef = 0.75\n")
    config = printed(*CARTPOLE, "--preset", "notebook", "--config", "c.toml", "--learning-rate", "0.5")
    assert config["algorithm"]["collector"]["name"] == "episodes"  # the preset's
    assert config["algorithm"]["value_coef"] == 0.75  # the preset says 1
    assert config["seed"] == 5
    assert config["algorithm"]["learning_rate"] == 0.5  # the preset says 0.03
    assert "episodes" not in str(printed(*CARTPOLE, "--preset", "none")["algorithm"]["collector"])


def test_a_setting_that_is_right_only_with_its_preset(printed):
    config = printed(*CARTPOLE, "--preset", "notebook", "--estimator.epsilon", "0.5")
    assert config["algorithm"]["estimator"]["epsilon"] == 0.5


def test_file_names_the_algorithm(printed, refused):
    Path("c.toml").write_text('algorithm = "a2c"\nenv = "CartPole-v1"')
    assert printed("run", "--config", "c.toml")["algorithm"]["name"] == "a2c"
    assert printed("run", "a2c", "--config", "c.toml")["algorithm"]["name"] == "a2c"
    assert printed("run", "rlkit-core:a2c", "--config", "c.toml")["algorithm"]["name"] == "a2c"
    Path("d.toml").write_text('algorithm = {name = "ppo"}\nenv = "CartPole-v1"')
    lines = refused("run", "a2c", "--config", "d.toml")
    assert lines == ["d.toml is for the algorithm ppo, not a2c", "run it with: rlkit run ppo --config d.toml"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--preset", "notebook"),
        ("--max-grad-norm", "none", "--group", 'a "quoted" \\ näme\t', "--eval-every", "7"),
        (
            "--env.kwargs",
            '{"a b": {"x": [1, 2.5, true]}, "s": "\\u007f"}',
            "--env.wrappers",
            "ClipReward:min_reward=-1.5",
        ),
        ("--stop-at", "1e300", "--learning-rate", "1e-5", "--network.hidden", "[]", "--tracker", "mlflow"),
    ],
)
def test_print_config_round_trip_is_equal(rlkit, arguments):
    for form in ("toml", "json"):
        code, first, err = rlkit(*CARTPOLE, *arguments, f"--print-config={form}")
        assert code == 0, err
        Path(f"c.{form}").write_text(first)
        code, again, err = rlkit("run", "--config", f"c.{form}", "--print-config", form)
        assert (code, again) == (0, first), err
    toml, from_json = tomllib.loads(Path("c.toml").read_text()), json.loads(Path("c.json").read_text())
    assert RunConfig.parse(toml, registry=Registry()) == RunConfig.parse(from_json, registry=Registry())


def test_toml_refuses_what_it_cannot_say(refused):
    lines = refused(*CARTPOLE, "--env.kwargs", '{"x": null}', "--print-config")
    assert lines == ["env.kwargs has no value, which TOML cannot say", "take --print-config json"]


def test_forms_of_strangers_settings():
    from collections.abc import Sequence
    from typing import Annotated, Literal, Optional

    from pydantic import Field

    assert Form.of(Annotated[float, Field(gt=0)]).metavar() == "FLOAT"
    assert Form.of(Optional[Literal["a", "none"]]).read(["none"]) == "none"  # noqa: UP045
    assert Form.of(Optional[Literal["a", "none"]]).read(["null"]) is None  # noqa: UP045
    assert Form.of(Literal[1, 2]).read(["2"]) == 2
    assert Form.of(Sequence[float]).read(["1,2", "3"]) == ["1", "2", "3"]
    assert Form.of(list[Literal["x", 1]]).read(["x,1"]) == ["x", 1]
    assert Form.of(str).read(["[a"]) == "[a"
    with pytest.raises(ValueError, match="no valid JSON"):
        Form.of(list[int]).read(["[1"])
    field = RunConfig.model_fields["seed"]
    assert facts(field) == "[at least 0; default 0]"


STRANGER = """
    from typing import ClassVar
    from pydantic import Field
    from rlkit_a2c.config import A2CConfig
    from rlkit_core.builtin.estimators import DiscountedConfig
    from rlkit_core.hookspecs import hookimpl

    class OwnConfig(A2CConfig):
        '''A stranger's algorithm.'''
        name: ClassVar[str] = "own"
        progress: int = Field(1, description="called like an option of the command")

    class EstConfig(DiscountedConfig):
        '''A stranger's estimator.'''
        name: ClassVar[str] = "est"
        rho: float = Field(0.5, ge=0, description="a stranger's setting")

    @hookimpl
    def rlkit_register():
        return [OwnConfig, EstConfig]
"""


def test_a_strangers_parts_get_their_options(rlkit, printed, refused, tmp_path, monkeypatch):
    distribution(tmp_path, "stranger", "stranger_plugin", STRANGER, "algorithm:own", "estimator:est")
    monkeypatch.syspath_prepend(tmp_path)
    assert re.search(r"^  own +from stranger 1\.2$", rlkit("run", "--help")[1], re.MULTILINE)
    out = rlkit("run", "own", "--estimator", "est", "--help")[1]
    assert "--estimator.rho FLOAT" in out
    assert "a stranger's setting [at least 0; default 0.5]" in out
    assert "--algorithm.progress INT" in out
    arguments = ("run", "own", "--env", "CartPole-v1", "--estimator", "est")
    config = printed(*arguments, "--estimator.rho", "2", "--algorithm.progress", "3", "--progress", "none")
    assert config["algorithm"]["estimator"]["rho"] == 2
    assert config["algorithm"]["progress"] == 3
    assert refused(*arguments, "--estimator.rho", "-1") == [
        "--estimator.rho: should be greater than or equal to 0, not '-1'"
    ]


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["rnu"],
            [
                "there is no command rnu",
                "did you mean run? commands: run, sweep, tune, resume, eval, watch, runs, compare, report, reproduce, "
                "verify, ui, list, show, plugins, sync",
            ],
        ),
        (["run"], [f"which algorithm? registered: {ALGORITHMS}", "for example: rlkit run a2c --env CartPole-v1"]),
        (["run", "a3c"], ["there is no algorithm named a3c", f"did you mean a2c? registered: {ALGORITHMS}"]),
        (["run", "a2c"], ["--env is missing: registered name, such as CartPole-v1"]),
        ([*CARTPOLE, "--seed"], ["--seed needs a value", "what it takes is shown with --help"]),
        (["run", "a2c", "CartPole-v1"], ["unexpected: CartPole-v1", "usage: rlkit run a2c --env ID [OPTIONS]"]),
        (
            [*CARTPOLE, "--preset", "notbook"],
            [
                "a2c has no preset notbook; did you mean notebook?",
                "it has: notebook, acrobot, pendulum, mountaincar, mountaincar-continuous, lunarlander",
            ],
        ),
        ([*CARTPOLE, "--config", "no.toml"], ["cannot read no.toml: No such file or directory"]),
        ([*CARTPOLE, "--device", "tpu"], ["--device: should be 'cpu', 'cuda' or 'auto', not 'tpu'"]),
        ([*CARTPOLE, "--env.kwargs", "x"], ["--env.kwargs: should be name=value, not 'x'"]),
        (
            [*CARTPOLE, "--normalize-advantages", "maybe"],
            ["--normalize-advantages: should be a valid boolean, not 'maybe'"],
        ),
        ([*CARTPOLE, "--progress", "loud"], ["--progress: 'loud' is not one of 'auto', 'rich', 'plain', 'none'"]),
        (["eval"], ["RUN is missing", "usage: rlkit eval [OPTIONS] RUN"]),
        (["eval", "x", "--episodes", "0"], ["--episodes: should be a whole number, at least 1, not 0"]),
        (["watch", "x", "--video", "a.avi"], ["--video: the name should end in .mp4 or .gif, not a.avi"]),
        (["watch", "x", "--video", "no/a.gif"], ["--video: there is no folder no"]),
    ],
)
def test_usage_errors(refused, arguments, lines):
    assert refused(*arguments) == lines


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--lerning-rate", "--learning-rate"),
        ("--learning", None),  # no abbreviation is guessed
        ("--num-envs", "--collector.num-envs"),
        ("--gamma", "--estimator.gamma"),
        ("--algorithm.gamma", "--estimator.gamma"),
        ("--colector.num-steps", "--collector.num-steps"),
        ("--no-normalize-advantages", "--normalize-advantages false"),
        ("--zzz", None),
    ],
)
def test_unknown_option(refused, option, meant):
    lines = refused(*CARTPOLE, option, "1")
    assert lines[0] == f"there is no option {option}"
    if meant:
        assert lines[1] == f"did you mean {meant}? all options: rlkit run a2c --help"
    elif option == "--zzz":
        assert lines[1] == "all options: rlkit run a2c --help"


def test_all_bad_values_at_once_each_by_its_source(refused):
    Path("c.toml").write_text(
        "log_every = 0\nsede = 1\n[algorithm]\nvalue_coef = -1\n[algorithm.network]\nhiden = [1]\n"
    )
    lines = refused(*CARTPOLE, "--config", "c.toml", "--learning-rate", "-1", "--collector.num-envs", "x")
    assert sorted(lines) == [
        "--collector.num-envs: should be a valid integer, not 'x'",
        "--learning-rate: should be greater than 0, not '-1'",
        "c.toml: algorithm.network.hiden: there is no such setting; did you mean hidden?",
        "c.toml: algorithm.value_coef: should be greater than or equal to 0, not -1",
        "c.toml: log_every: should be greater than or equal to 1, not 0",
        "c.toml: sede: there is no such setting; did you mean seed?",
    ]


def test_an_option_over_a_bad_value_of_the_file_mends_it(printed):
    Path("c.toml").write_text("[algorithm]\nvalue_coef = -1\n")
    assert printed(*CARTPOLE, "--config", "c.toml", "--value-coef", "1")["algorithm"]["value_coef"] == 1


def test_an_options_problem_is_not_the_files(refused):
    Path("c.toml").write_text('algorithm = { estimator = "lambda" }\n[env]\nkwargs = 1\n')
    lines = refused("run", "a2c", "--config", "c.toml", "--estimator", "lamda", "--env.kwargs", "x")
    assert [line.partition(":")[0] for line in lines] == ["--env.kwargs", "--estimator", "--env is missing"]


def test_very_many_problems_are_cut(refused):
    Path("c.json").write_text(json.dumps({f"x{i}": 1 for i in range(50)}))
    lines = refused(*CARTPOLE, "--config", "c.json")
    assert len(lines) == 8
    assert lines[-1] == "and 43 more"


def test_a_rule_between_settings_names_the_options(refused):
    lines = refused(*CARTPOLE, "--estimator.normalize", "per_episode", "--learning-rate", "1")
    assert lines[0].startswith("--estimator.normalize: normalize per_episode needs bootstrap false")
    lines = refused(*CARTPOLE, "--estimator.normalize", "per_episode", "--estimator.bootstrap", "false")
    assert "needs whole episodes: take collector episodes" in lines[0]
    assert lines[0].startswith("--estimator")


def test_unknown_part(refused):
    assert refused(*CARTPOLE, "--estimator", "lamda")[0].startswith(
        "--estimator: there is no estimator named lamda; did you mean lambda?"
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.toml", "a = [", "c.toml is no valid TOML: "),
        ("c.yaml", "!!python/object/apply:os.getcwd []", "c.yaml is no valid YAML: "),
        ("c.json", "[1]", "c.json should be a table of settings"),
        ("c.json", "[" * 20_000, "c.json is nested too deeply"),
        ("c.json", '{"seed": 1, "seed": 2}', "c.json is no valid JSON: seed is given twice"),
        ("c.yaml", "seed: 1\nseed: 2\n", "c.yaml is no valid YAML: seed is given twice"),
        ("c.yaml", "a: &a [1]\nb: [*a, *a]\n", "c.yaml is no valid YAML: it has aliases"),
        ("c.yaml", "? [1]\n: 2\n", "c.yaml is no valid YAML: "),
        ("c.toml", "seed = inf", "c.toml: seed: should be"),
        ("c.toml", "stop_at = nan", "c.toml: stop_at: should be a finite number"),
        ("c.json", '{"algorithm": {"learning_rate": 1e999}}', "c.json: algorithm.learning_rate: should be a finite"),
        ("c.json", '{"env": {"kwargs": {"x": [Infinity]}}}', "c.json: env.kwargs: should be a finite number"),
        ("c.txt", "", "c.txt: the name should end in .toml, .yaml, .yml or .json"),
    ],
)
def test_unreadable_config_file(refused, name, text, said):
    Path(name).write_text(text)
    assert refused(*CARTPOLE, "--config", name)[0].startswith(said)


def test_unknown_environment(refused):
    lines = refused("run", "a2c", "--env", "CartPoel-v1", "--tracker", "none")
    assert lines[0].startswith("there is no environment CartPoel-v1")
    assert lines[1].startswith("did you mean CartPole-v1?")
    assert len(lines) <= 3
    assert not Path("runs").exists()


def test_missing_runs(refused):
    for arguments in (["eval", "no"], ["watch", "no"], ["sync", "no"], [*SHORT, "--init-from", "no"]):
        assert refused(*arguments)[0] == "run folder no does not exist"


def test_run_folder_that_cannot_be_written_or_is_taken(refused, run_dir):
    Path("file").write_text("")
    assert refused(*SHORT, "--run-dir", "file/x", code=6)[0].startswith("cannot write run folder file/x")
    assert refused(*SHORT, "--run-dir", run_dir)[0] == f"{run_dir} holds a run already"


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ("CliNan-v0", 4, "obs[1] is nan"),
        ("CliShape-v0", 4, "obs has shape (3,), its space (2,)"),
        ("CliRaises-v0", 4, "step raised KeyError"),
        ("CliText-v0", 2, "Text"),
    ],
)
def test_bad_environments(refused, env, code, said):
    Path("cli_envs.py").write_text(textwrap.dedent(ENVIRONMENTS))
    lines = refused("run", "a2c", "--import", "cli_envs", "--env", env, *SHORT[4:], "--run-dir", "x", code=code)
    assert said in "\n".join(lines)
    assert len(lines) <= 3
    assert json.loads(Path("x/status.json").read_text())["state"] == "failed"
    assert "Traceback" in "".join(json.loads(Path("x/error.json").read_text())["traceback"])


def test_a_file_makes_no_module_of_the_working_folder_run(rlkit, refused):
    Path("cli_local.py").write_text("open('ran', 'w')")
    Path("c.toml").write_text('imports = ["cli_local"]')
    assert refused(*SHORT, "--config", "c.toml") == [
        "cannot import cli_local: ModuleNotFoundError: No module named 'cli_local'",
        "if it is not installed, name it again: --import cli_local",
    ]
    assert not Path("ran").exists()
    assert rlkit(*SHORT, "--config", "c.toml", "--import", "cli_local")[0] == 0
    assert Path("ran").exists()


def test_broken_plugin_is_named_and_harms_nobody_else(rlkit, refused, tmp_path, monkeypatch):
    distribution(tmp_path, "hostile", "hostile_plugin", HOSTILE, "algorithm:hostile", "estimator:hostile")
    monkeypatch.syspath_prepend(tmp_path)
    lines = refused("run", "hostile", code=3)
    assert lines[0] == "plugin hostile 1.2 cannot be imported: RuntimeError: no luck"
    assert refused(*CARTPOLE, "--estimator", "hostile", code=3) == [
        lines[0],
        lines[1].replace("algorithm", "estimator"),
    ]
    assert "hostile 1.2" in rlkit("list")[1]
    assert rlkit(*CARTPOLE, "--print-config")[0] == 0


def test_two_distributions_with_one_name(rlkit, refused, tmp_path, monkeypatch):
    distribution(tmp_path, "second", "second_plugin", HOSTILE, "algorithm:a2c")
    monkeypatch.syspath_prepend(tmp_path)
    assert refused(*CARTPOLE, code=3)[1] == "name it in full: rlkit-core:a2c or second:a2c"
    assert "second:a2c" in rlkit("list", "algorithm")[1]
    assert "rlkit-core:a2c" in rlkit("run", "--help")[1]
    assert rlkit("run", "rlkit-core:a2c", *CARTPOLE[2:], "--preset", "notebook", "--print-config")[0] == 0


BAD_HOOK = """
    from rlkit_core.hookspecs import hookimpl
    @hookimpl
    def rlkit_iteration_finished(step, metrics):
        raise ValueError("three\\nlines")
"""


def test_an_unexpected_exception_is_three_lines(rlkit, refused, tmp_path, monkeypatch):
    Path("cli_hook.py").write_text(textwrap.dedent(BAD_HOOK))
    monkeypatch.syspath_prepend(tmp_path)
    lines = refused(*SHORT, "--hooks", "cli_hook", "--run-dir", "x", code=70)
    assert lines[0].startswith("ValueError: three lines (")
    assert "cli_hook.py, line 5)" in lines[0]
    assert lines[1] == "this is a bug, of rlkit or of a plugin; the traceback is in x/error.json"
    assert lines[2] == "--debug shows the traceback"
    code, _, err = rlkit(*SHORT, "--hooks", "cli_hook", "--run-dir", "y", "--debug")
    assert code == 70
    assert "Traceback (most recent call last)" in err


def test_debug_shows_the_traceback_of_an_expected_error(rlkit):
    code, _, err = rlkit("eval", "no", "--debug")
    assert code == 2
    assert "Traceback" in err


# ---- runs ----


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A short run."""
    path = tmp_path_factory.mktemp("cli") / "a run"
    assert execute([*SHORT, "--run-dir", str(path), "--progress", "none"]) == 0
    return path


def test_a_run_says_what_was_reached_and_where_it_lies(rlkit):
    code, out, err = rlkit(*SHORT, "--seed", "4", "--run-dir", "a b")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("a2c on CartPole-v1 (")
    assert lines[-3].startswith("budget used up: greedy return ")
    assert " over 100 episodes after " in lines[-3]
    assert lines[-2:] == ["run folder  'a b'", "evaluate    rlkit eval 'a b'"]
    assert json.loads(Path("a b/config.json").read_text())["seed"] == 4
    assert rlkit(*SHORT)[1].splitlines()[-1].startswith("evaluate    rlkit eval runs/a2c-CartPole-v1-seed0-")


def test_a_solved_run_says_so(rlkit):
    code, out, _ = rlkit(*CARTPOLE, "--stop-at", "threshold", "--total-steps", "60000", "--progress", "none")
    assert code == 0
    outcome = out.splitlines()[-3]
    assert outcome.startswith(("solved: greedy return ", "budget used up: greedy return "))
    assert ("(475 was the aim)" in outcome) == outcome.startswith("budget")
    code, out, _ = rlkit(*CARTPOLE, "--stop-at", "1", "--total-steps", "3000", "--eval-every", "100")
    assert out.splitlines()[-3].startswith("done: greedy return ")


def test_a_runs_config_file_runs_again_equally(rlkit, run_dir):
    code, _, err = rlkit("run", "--config", run_dir / "config.json", "--run-dir", "again")
    assert code == 0, err
    assert json.loads(Path("again/config.json").read_text()) == json.loads((run_dir / "config.json").read_text())
    weights = [path / "policy/last/policy.safetensors" for path in (run_dir, Path("again"))]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_init_from(rlkit, refused, run_dir):
    assert rlkit(*SHORT, "--init-from", run_dir, "--run-dir", "next")[0] == 0
    assert json.loads(Path("next/provenance.json").read_text())["init_from"] == str(run_dir)
    assert "does not fit" in refused(*SHORT, "--init-from", run_dir, "--network.hidden", "5", code=2)[0]


def test_eval(rlkit, run_dir):
    code, out, err = rlkit("eval", run_dir, "--episodes", "30")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("over 30 episodes, last policy")
    assert [line.split()[0] for line in lines] == ["greedy", "spread", "mean", "lengths"]
    assert "95 % bootstrap interval" in lines[2]
    numbers = json.loads(rlkit("eval", run_dir, "--episodes", "30", "--json")[1])
    returns = evaluate(run_dir, episodes=30).returns
    assert numbers["returns"] == list(returns)
    assert numbers["interval"][0] <= numbers["mean"] <= numbers["interval"][1]
    assert numbers["min"] <= numbers["q25"] <= numbers["median"] <= numbers["q75"] <= numbers["max"]
    assert json.loads(rlkit("eval", run_dir, "--episodes", "30", "--json", "--seed", "1")[1])["returns"] != list(
        returns
    )
    assert rlkit("eval", run_dir, "--episodes", "1")[1].splitlines()[1].startswith("length ")


def test_eval_bounds_its_episodes(rlkit, run_dir):
    out = rlkit("eval", run_dir, "--episodes", "20", "--max-steps", "3", "--which", "best")[1]
    assert "greedy return  3.0 over 20 episodes, best policy" in out
    assert "20 cut off" in out


def test_watch_without_the_extra_says_what_to_install(refused, run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio", None)
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    lines = refused("watch", run_dir, "--video", "a.gif")
    assert lines[0].startswith("a video needs a package that is not installed")
    assert lines[1] == "pip install 'rlkit-core[render]'"


def test_watch_without_pygame_says_what_to_install(refused, run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    lines = refused("watch", run_dir)
    assert lines[0].startswith("rendering CartPole-v1 needs a package that is not installed")
    assert lines[1] == "pip install 'rlkit-core[render]'"


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_watch_writes_a_video_of_every_frame(rlkit, run_dir, name):
    imageio = pytest.importorskip("imageio.v2")
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
    code, out, err = rlkit("watch", run_dir, "--video", name, "--max-steps", "7", "--episodes", "2")
    assert code == 0, err
    assert out.splitlines() == [f"episode {i}: return 7.0 in 7 steps" for i in (1, 2)] + [f"video  {name}"]
    frames = imageio.mimread(name, memtest=False)
    assert frames[0].shape[:2] == (400, 600)
    if name.endswith("mp4"):
        assert len(frames) == 16  # a reset and seven steps in each


def test_watch_in_a_window(rlkit, run_dir, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    code, out, _ = rlkit("watch", run_dir, "--max-steps", "3")
    assert (code, out) == (0, "episode 1: return 3.0 in 3 steps\n")


def test_watch_an_environment_without_pictures(rlkit, refused):
    source = textwrap.dedent(ENVIRONMENTS).replace("Cli{", "Blind{")
    Path("cli_envs2.py").write_text(source)
    arguments = ("--import", "cli_envs2", "--env", "BlindBase-v0", *SHORT[4:], "--run-dir", "x")
    assert rlkit("run", "a2c", *arguments)[0] == 0
    # What the run's record names counts only where it is installed, or named again.
    sys.modules.pop("cli_envs2")
    for name in [name for name in gymnasium.registry if name.startswith("Blind")]:
        gymnasium.registry.pop(name)
    sys.path[:] = [entry for entry in sys.path if entry]
    assert refused("watch", "x")[1] == "if it is not installed, name it again: --import cli_envs2"
    assert refused("watch", "x", "--import", "cli_envs2")[0] == (
        "environment BlindBase-v0 has no render mode human; it has: none"
    )


def test_store_that_cannot_be_reached_is_a_warning(rlkit, monkeypatch):
    finish = TrackingProcess.finish
    monkeypatch.setattr(TrackingProcess, "finish", lambda self: finish(self, timeout=5.0))
    code, out, err = rlkit(*SHORT, "--tracker", "mlflow", "--tracker.uri", "http://127.0.0.1:9", "--run-dir", "x")
    assert code == 0
    assert err.startswith("warning: not everything was sent to mlflow at http://127.0.0.1:9")
    assert err.splitlines()[1].strip() == "send the rest with: rlkit sync x"
    assert "look at it  http://127.0.0.1:9" in out
    assert json.loads(Path("x/status.json").read_text())["state"] == "finished"


def test_sync_of_several_runs_goes_on_after_a_failure(rlkit, run_dir):
    code, out, err = rlkit("sync", "no", run_dir)
    assert code == 2
    assert "error: run folder no does not exist" in err
    assert "there is nothing to send" in out


# ---- runs ----


def test_runs_are_listed_with_how_they_stand(rlkit):
    code, _, err = rlkit("runs")
    assert (code, err.splitlines()[0]) == (2, "error: there is no folder runs")
    Path("runs").mkdir()
    assert rlkit("runs") == (0, "no run in runs\n", "")
    assert rlkit(*SHORT, "--seed", "3", "--run-dir", "runs/one")[0] == 0
    started = subprocess.Popen([RLKIT, *CARTPOLE, "--total-steps", "100000000", "--stop-at", "never",
                                "--log-every", "1000", "--run-dir", "runs/two"], stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        _wait_for(lambda: Path("runs/two/metrics.jsonl").exists() and last_record(Path("runs/two/metrics.jsonl")))
        assert json.loads(rlkit("runs", "--json")[1])[1]["state"] == "running"
    finally:
        started.kill()
        started.wait()
    Path("runs/three").mkdir()
    Path("runs/three/config.json").write_text("[]")
    Path("runs/three/status.json").write_text("{")
    runs = {run["run"]: run for run in json.loads(rlkit("runs", "--json")[1])}
    assert {place: run["state"] for place, run in runs.items()} == {
        **{"runs/one": "finished", "runs/two": "lost", "runs/three": "damaged"}
    }
    steps = json.loads(Path("runs/one/status.json").read_text())["result"]["steps"]
    assert {key: runs["runs/one"][key] for key in ("algorithm", "env", "seed", "steps", "group")} == {
        **{"algorithm": "a2c", "env": "CartPole-v1", "seed": 3, "steps": steps, "group": "a2c-CartPole-v1"},
    }
    assert runs["runs/two"]["steps"] > 0
    code, out, err = rlkit("runs")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["run", "state"], ["runs/three", "damaged"], ["runs/one", "finished"], ["runs/two", "lost"]
    ]  # fmt: skip
    # A single run's own folder, too.
    assert json.loads(rlkit("runs", "runs/one", "--json")[1])[0]["state"] == "finished"


@pytest.mark.parametrize(
    "command", ["runs", "compare a", "report a", "reproduce a", "verify a2c --env CartPole-v1 --against zoo"]
)
def test_what_stands_behind_store_is_an_address(refused, command):
    assert refused(*command.split(), "--store", "mine/first") == [
        "--store: there is no store mine/first",
        "give an address such as sqlite:///mlflow.db; without one, --store stands behind the runs",
    ]


def test_runs_are_filtered_sorted_and_counted_by_group(rlkit):
    def places(*arguments):
        code, out, err = rlkit("runs", *arguments)
        assert (code, err) == (0, ""), err
        return [line.split()[0].rpartition("/")[2] for line in out.splitlines()[1:] if not line.startswith("group ")]

    for i, name in enumerate("abcd"):
        config = config_of("a2c" if i < 3 else "ppo", seed=i, group=None if i == 3 else "mine/first")
        make_run(Path("runs") / name, config=config, returns=[10.0 - i], started=BEGAN + i,
                 state="killed" if i == 2 else "finished", parent=None if i == 3 else "9" * 32)  # fmt: skip
    planned = [{"group": "mine/first", "environment": "CartPole-v1", "seed": seed} for seed in range(5)]
    write_json(Path("runs/group.json"), {"format": 1, "id": "9" * 32, "name": "mine", "planned": planned})
    assert places() == ["a", "b", "c", "d"]
    assert places("--group", "mine") == places("--algorithm", "a2c") == ["a", "b", "c"]
    assert places("--state", "finished", "--env", "CartPole-v1", "--where", "seed > 0") == ["b", "d"]
    assert places("--sort", "return") == ["c", "d", "b", "a"]  # one without an evaluation at first
    assert places("--limit", "2", "--sort", "seed") == ["c", "d"]
    assert rlkit("runs")[1].splitlines()[-1] == "group mine: 5 runs, 2 finished, 1 killed, 2 missing"
    assert rlkit("runs", "--state", "lost")[1] == "no run in runs, 4 without the filters\n"
    for arguments, message in (
        (["--where", "sed < 1"], "filter 'sed < 1': runs have no field sed; did you mean seed?"),
        (["--sort", "sed"], "runs have no field sed; did you mean seed?"),
        (["--group", "nobodys"], "there is no run and no group nobodys in runs"),
        (["--limit", "0"], "--limit: should be a whole number, at least 1, not 0"),
    ):
        code, _, err = rlkit("runs", *arguments)
        assert (code, err.splitlines()[0]) == (2, f"error: {message}")


# ---- terminal, pipes, signals ----


def _wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _endless(*more):
    command = [RLKIT, *CARTPOLE, "--stop-at", "never", "--total-steps", "100000000", "--run-dir", "x", *more]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for(Path("x/metrics.jsonl").exists)
    return started


def test_pipe_gets_plain_lines_now_and_then(rlkit, monkeypatch):
    monkeypatch.setattr(PlainProgress, "every", 0.0)  # seconds between two lines
    code, out, err = rlkit(*SHORT, "--total-steps", "3000")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    progress = [line for line in out.splitlines() if " of 3,000 steps" in line]
    assert len(progress) > 1
    assert all("steps/s" in line for line in progress)
    assert " of 3,000 steps" not in rlkit(*SHORT, "--total-steps", "3000", "--progress", "none")[1]


def test_terminal_gets_a_live_display():
    import pty

    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen([RLKIT, *SHORT], stdout=follower, stderr=follower, stdin=follower, env=environ) as started:
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(leader)
    assert started.returncode == 0
    assert b"\x1b[" in shown
    assert b"elapsed" in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_what_it_has(number, code):
    started = _endless()
    _wait_for(lambda: Path("x/metrics.jsonl").stat().st_size >= 0)
    time.sleep(0.3)
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == code, (out, err)
    assert err.strip() == f"{number.name}: stopping after this update; once more stops at once"
    assert "interrupted" in out
    assert "go on       rlkit resume x" in out
    assert json.loads(Path("x/status.json").read_text())["state"] == "interrupted"
    assert evaluate("x", episodes=2).returns


def test_a_second_interruption_forces_out():
    Path("cli_slow.py").write_text(
        "import time\nfrom rlkit_core.hookspecs import hookimpl\n@hookimpl\n"
        "def rlkit_iteration_finished(step, metrics):\n    open('slow', 'w')\n    time.sleep(60)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [RLKIT, *SHORT, "--run-dir", "x", "--hooks", "cli_slow"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    _wait_for(Path("slow").exists)
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in err
    assert json.loads(Path("x/status.json").read_text())["state"] == "interrupted"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_training_begins(number, code):
    Path("cli_early.py").write_text("import time\nopen('early', 'w')\ntime.sleep(60)\n")
    command = [RLKIT, *SHORT, "--import", "cli_early"]
    # A shell starts what runs in its background with SIGINT ignored, and that is inherited: also by these tests.
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    _wait_for(Path("early").exists)
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == code
    assert "Traceback" not in err


def test_a_closed_pipe_is_quiet():
    done = subprocess.run(f"{RLKIT} run a2c --help | true; exit ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash",
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stderr == ""


def test_every_flag_is_unique_and_documented():
    from rlkit_core.cli.options import make_plan

    settings = make_plan("a2c", Registry(), []).settings
    flags = [setting.flag for setting in settings]
    assert len(flags) == len(set(flags))
    assert all(setting.text for setting in settings)
