"""What authors of plugins test with: the decorator, outcomes, and the fixtures, as an author's own pytest sees them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

import rlkit_core.testing
from rlkit_core import EstimatorConfig
from rlkit_core.builtin.collectors import StepsConfig
from rlkit_core.builtin.environments import GymnasiumConfig
from rlkit_core.builtin.estimators import DiscountedConfig, LambdaConfig
from rlkit_core.builtin.networks import MLPConfig
from rlkit_core.component import KINDS
from rlkit_core.errors import UsageError
from rlkit_core.returns import LambdaEstimator
from rlkit_core.testing import checks_for, parametrize_with_checks, run_checks
from rlkit_core.testing.checks import all_checks, relies_on, small
from rlkit_dqn.config import DQNConfig


class SumsConfig(EstimatorConfig):
    """Undiscounted sums."""

    name: ClassVar[str] = "sums"
    rate: float = Field(0.5, description="of no use, and without bounds")
    fails: ClassVar[bool] = False

    def build(self) -> Any:
        if self.fails:
            raise RuntimeError("nothing\nto see")
        return LambdaEstimator(1.0)


class FailingConfig(SumsConfig):
    """Cannot be built."""

    fails: ClassVar[bool] = True


class NeedyConfig(SumsConfig):
    """Needs a setting."""

    name: ClassVar[str] = "needy"
    limit: float = Field(gt=0, description="needed")


def test_there_are_checks_for_every_kind() -> None:
    checks = all_checks()
    assert len({one.name for one in checks}) == len(checks) >= 40
    assert all(one.description and set(one.kinds) <= set(KINDS) for one in checks)
    assert set(KINDS) == {kind for one in checks for kind in one.kinds if len(one.kinds) < 6}
    assert {one.kinds for one in checks_for(DiscountedConfig)} == {
        one.kinds for one in checks_for(DiscountedConfig()) if "estimator" in one.kinds
    }


@pytest.mark.parametrize("wrong", [int, "a2c", EstimatorConfig, None])
def test_what_is_no_part_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is no part"):
        run_checks(wrong)


def test_a_class_without_defaults_needs_an_instance() -> None:
    with pytest.raises(UsageError, match="cannot be made without settings"):
        run_checks(NeedyConfig)
    assert not [one for one in run_checks(NeedyConfig(limit=1.0)) if one.status == "failed"]


def test_an_environment_that_must_be_named_is_a_probe() -> None:
    outcomes = run_checks(GymnasiumConfig)
    assert {one.status for one in outcomes} == {"passed"}


def test_what_cannot_be_built_fails_once_and_the_rest_is_skipped() -> None:
    outcomes = {one.check: one for one in run_checks(FailingConfig)}
    failed = [name for name, one in outcomes.items() if one.status == "failed"]
    assert failed == ["builds_an_estimator"]
    assert outcomes["builds_an_estimator"].message.startswith("estimator sums: RuntimeError: nothing to see\n")
    assert outcomes["returns_are_finite"].status == "skipped"
    assert outcomes["returns_are_finite"].message.startswith("builds_an_estimator comes first")
    assert outcomes["numbers_are_bounded"].status == "warned"


def test_what_another_check_should_have_told_is_told() -> None:
    """A check may pass what another one stumbles over: the failure must not be lost as a skip."""
    from rlkit_core.testing.checks import Check, Subject, _outcome

    def stumbles(subject: Subject) -> None:
        with relies_on("builds_an_estimator"):
            raise RuntimeError("only here")

    outcome = _outcome(Check("stumbles", ("estimator",), "It does not.", stumbles), Subject(SumsConfig()))
    assert (outcome.status, outcome.message.splitlines()[0]) == ("failed", "estimator sums: RuntimeError: only here")


def test_checks_can_be_left_out() -> None:
    names = [one.check for one in run_checks(SumsConfig, leave_out=["numbers_are_bounded"])]
    assert "numbers_are_bounded" not in names
    assert "returns_are_finite" in names


def test_sizes_are_made_small_where_they_fit() -> None:
    config = small(DQNConfig())
    assert config.network == MLPConfig(hidden=(16,), init="default")
    assert (config.collector.num_envs, config.collector.num_steps, config.batch_size) == (2, 8, 16)
    assert small(LambdaConfig(gamma=0.5)) == LambdaConfig(gamma=0.5)
    assert small(StepsConfig(), num_steps=0) == StepsConfig()


def test_ids_and_expected_failures() -> None:
    reasons = {"sums": {"numbers_are_bounded": "any number will do"}}
    for given in (reasons, {SumsConfig: reasons["sums"]}, lambda part: reasons.get(part.name)):
        params = parametrize_with_checks(
            [SumsConfig, SumsConfig(rate=1.0), LambdaConfig], expected_failures=given
        ).args[1]
        ids = [param.id for param in params]
        assert len(set(ids)) == len(ids)
        assert {"sums-returns_are_finite", "sums2-returns_are_finite", "lambda-returns_are_finite"} <= set(ids)
        [mark] = params[ids.index("sums-numbers_are_bounded")].marks
        assert mark.kwargs == {"reason": "any number will do", "strict": True}
        assert not params[ids.index("sums-returns_are_finite")].marks
    with pytest.raises(UsageError, match="name no check: numbers_bounded"):
        parametrize_with_checks([SumsConfig], expected_failures={"sums": {"numbers_bounded": "misspelled"}})


def test_the_callers_warnings_and_threads_are_left_alone() -> None:
    import torch

    before = torch.get_num_threads()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_checks(SumsConfig)
    assert caught == []
    assert torch.get_num_threads() == before


AUTHORS_TESTS = """
import os
import sys
import tomllib

import pytest

import my_plugin
from rlkit_core.testing import CheckWarning, parametrize_with_checks

FAILURES = {"mine": {"values_may_be_missing": "never without", "returns_are_finite": "passes after all"}}


@parametrize_with_checks([my_plugin.MineConfig], expected_failures=FAILURES)
def test_contract(component, check):
    check(component)


def test_registry(rlkit_registry):
    assert rlkit_registry(my_plugin).get("estimator", "mine") is my_plugin.MineConfig
    assert "mine" not in rlkit_registry().names("estimator")
    assert {entry.distribution for entry in rlkit_registry().entries()} == {"rlkit-core"}


def test_mlflow(rlkit_mlflow, tmp_path):
    assert os.environ["MLFLOW_TRACKING_URI"] == rlkit_mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert "MLFLOW_EXPERIMENT_NAME" not in os.environ


def test_probes(rlkit_probes):
    import gymnasium

    assert all(probe.id in gymnasium.registry for probe in rlkit_probes)
"""
AUTHORS_PLUGIN = '''
from typing import ClassVar

from pydantic import Field

from rlkit_core import EstimatorConfig, hookimpl


class MineConfig(EstimatorConfig):
    """Sums."""

    name: ClassVar[str] = "mine"
    rate: float = Field(0.5, description="without bounds")

    def build(self):
        from rlkit_core.returns import LambdaEstimator

        class Mine(LambdaEstimator):
            def estimate(self, rollout, next_values, *, values=None, **others):
                assert values is not None
                return super().estimate(rollout, next_values, values=values, **others)

        return Mine(1.0)


@hookimpl
def rlkit_register():
    return [MineConfig]
'''
PLUGIN = "rlkit_core.testing.pytest_plugin"


def test_as_an_author_uses_it(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(AUTHORS_TESTS, encoding="utf-8")
    (tmp_path / "my_plugin.py").write_text(AUTHORS_PLUGIN, encoding="utf-8")
    # Named instead of found by its entry point, so that it is this one that is tested.
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MLFLOW_EXPERIMENT_NAME": "mine"}
    environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environ.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-rA", "-q", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    said = done.stdout
    assert done.returncode == 1, said + done.stderr
    assert "XFAIL test_mine.py::test_contract[mine-values_may_be_missing]" in said
    assert "FAILED test_mine.py::test_contract[mine-returns_are_finite]" in said
    assert "CheckWarning: estimator mine: MineConfig.rate takes any number" in said
    for name in ("test_registry", "test_mlflow", "test_probes", "test_contract[mine-asking_changes_nothing]"):
        assert f"PASSED test_mine.py::{name}" in said, said
    assert " 1 failed" in said or "1 failed," in said


def test_the_pytest_plugin_costs_nothing_where_it_is_not_used() -> None:
    code = f"import sys, {PLUGIN}; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'pydantic', 'numpy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_checks_need_no_pytest_and_no_hypothesis() -> None:
    code = (
        "import sys\nfrom rlkit_core.testing import run_checks\n"
        "from rlkit_core.builtin.estimators import DiscountedConfig\nrun_checks(DiscountedConfig)\n"
        "print([m for m in ('pytest', 'hypothesis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_public_names() -> None:
    for name in rlkit_core.testing._MODULE_OF:
        assert getattr(rlkit_core.testing, name) is not None


def test_the_pytest_plugin_is_announced() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"rlkit": PLUGIN}
