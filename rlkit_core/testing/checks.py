"""The contract of plugins as checks that their authors run: from pytest, from Python, or by the command.

    @parametrize_with_checks([MyConfig, MyConfig(learning_rate=0.1)])
    def test_it_keeps_the_contract(component, check):
        check(component)

`run_checks(MyConfig)` gives the same as a list of outcomes. The checks of a kind are in the file of that name beside
this one; each says in its message what is wrong, where, and what to do.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rlkit_core.component import KINDS, Component, dump
from rlkit_core.config import plain
from rlkit_core.errors import UsageError

Status = Literal["passed", "failed", "warned", "skipped"]
Target = Component | type[Component]
"""What is checked: a config class, which is taken with its defaults, or an instance, with its settings."""

_MODULES = (
    "settings",
    "algorithms",
    "policies",
    "networks",
    "estimators",
    "explorations",
    "collectors",
    "environments",
    "trackers",
    "executors",
)


class CheckFailed(AssertionError):
    """A part does not keep the contract; the text says what, where, and what to do."""


class CheckWarning(UserWarning):
    """Something about a part that works but should be better."""


class CheckSkipped(Exception):
    """A check has nothing to look at.

    Args:
        reason: why.
        relies_on: the check that owns what went wrong; if that one passes, this is a failure after all.
    """

    def __init__(self, reason: str, relies_on: str | None = None) -> None:
        self.relies_on = relies_on
        super().__init__(reason)


@dataclass(frozen=True)
class Check:
    """One promise of the contract.

    Attributes:
        name: as in test ids and expected failures.
        kinds: of the parts it is for.
        description: what is promised, in a sentence.
        run: raises `CheckFailed`, `CheckSkipped` or nothing, and may warn with `CheckWarning`.
    """

    name: str
    kinds: tuple[str, ...]
    description: str
    run: Callable[[Subject], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a check."""

    check: str
    status: Status
    message: str = ""


@dataclass
class Subject:
    """A part under test: its settings, and what several checks share."""

    config: Any
    cache: dict[Any, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once; it must not be changed."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    @property
    def where(self) -> str:
        """What the part is called in messages."""
        return f"{self.config.kind} {self.config.name or type(self.config).__name__}"


_CHECKS: dict[str, Check] = {}


def check(*kinds: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function as a check of these kinds; its name is the check's, its docstring the description."""

    def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        description = " ".join((run.__doc__ or "").split())
        assert run.__name__ not in _CHECKS, run.__name__
        _CHECKS[run.__name__] = Check(run.__name__, kinds, description, run)
        return run

    return register


def fail(what: str, todo: str) -> None:
    """Raise `CheckFailed`: what is wrong, and what to do."""
    raise CheckFailed(f"{what}\n{todo}")


@contextmanager
def relies_on(name: str) -> Iterator[None]:
    """What raises inside is the business of another check: this one is skipped, unless that one passes."""
    try:
        yield
    except (CheckFailed, CheckSkipped):
        raise
    except Exception as error:
        raise CheckSkipped(reason(error), name) from error


def blame(subject: Subject, *names: str) -> None:
    """Skip the check that is running if one of these has failed: what is wrong is theirs to tell."""
    for name in names:
        outcome = _outcome(_CHECKS[name], subject)
        if outcome.status == "failed":
            raise CheckSkipped(outcome.message, name)


def reason(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def all_checks() -> list[Check]:
    """All checks there are, of all kinds."""
    for module in _MODULES:
        importlib.import_module(f"rlkit_core.testing.{module}")
    return list(_CHECKS.values())


def checks_for(component: Target) -> list[Check]:
    """The checks of a part's kind.

    Raises:
        UsageError: it is none.
    """
    cls = component if isinstance(component, type) else type(component)
    if not issubclass(cls, Component) or cls.kind not in KINDS or cls.is_kind():
        raise UsageError(f"{component!r} is no part\ngive a config class such as A2CConfig, or an instance of one")
    return [one for one in all_checks() if cls.kind in one.kinds]


def run_checks(component: Target, *, leave_out: Collection[str] = ()) -> list[Outcome]:
    """Run all checks of a part.

    Args:
        component: a config class, which is taken with its defaults, or an instance, with its settings. Sizes (hidden
            layers, environments, steps, batches) are made small, so that it is quick.
        leave_out: names of checks that are not run.

    Raises:
        UsageError: it is no part, or a class that has no defaults.
    """
    known = checks_for(component)
    subject = _subject(component)
    return [_outcome(one, subject) for one in known if one.name not in leave_out]


def _subject(component: Target) -> Subject:
    if isinstance(component, Component):
        return Subject(component)
    try:
        return Subject(component())
    except (ValueError, TypeError) as error:
        if component.kind == "environment":
            # A family that must be told which of its environments is meant: one that everybody has.
            from rlkit_core.testing.probes import TwoSteps

            try:
                return Subject(component.model_validate({"id": TwoSteps.id}))
            except ValueError:
                pass
        raise UsageError(
            f"{component.__name__} cannot be made without settings: {' '.join(str(error).split())[:300]}\n"
            "give its fields defaults, or check an instance of it"
        ) from error


def _outcome(one: Check, subject: Subject) -> Outcome:
    if one.name not in subject.outcomes:
        subject.outcomes[one.name] = _run(one, subject)
    return subject.outcomes[one.name]


def _run(one: Check, subject: Subject) -> Outcome:
    from rlkit_core.testing.cases import threads

    # One thread, as runs have: with more, small updates take many times as long.
    with warnings.catch_warnings(record=True) as caught, threads(1):
        warnings.simplefilter("always")
        try:
            one.run(subject)
        except CheckSkipped as skipped:
            if skipped.relies_on is None:
                return Outcome(one.name, "skipped", str(skipped))
            first = _CHECKS[skipped.relies_on]
            if first is not one and _outcome(first, subject).status in ("failed", "skipped"):
                return Outcome(one.name, "skipped", f"{first.name} comes first: {skipped}")
            return Outcome(one.name, "failed", f"{subject.where}: {skipped}\nit is raised in the check {one.name}")
        except CheckFailed as failed:
            return Outcome(one.name, "failed", f"{subject.where}: {failed}")
        except Exception as error:
            return Outcome(one.name, "failed", f"{subject.where}: {reason(error)}\nwhat is promised: {one.description}")
    messages = [str(item.message) for item in caught if issubclass(item.category, CheckWarning)]
    return Outcome(one.name, "warned", f"{subject.where}: {messages[0]}") if messages else Outcome(one.name, "passed")


Expected = Mapping[str, str]
"""Names of checks that fail, with the reason."""


def parametrize_with_checks(
    components: Sequence[Target],
    *,
    expected_failures: Mapping[Any, Expected] | Callable[[Target], Expected] | None = None,
) -> Any:
    """A decorator for a pytest test with the arguments `component` and `check`: one test per part and check.

    Args:
        components: config classes, or instances of them.
        expected_failures: by part (or its name) the checks that it is known to fail, each with the reason: a mapping,
            or a function of the part. They are strict: a check that passes after all fails the test.

    Returns:
        the decorator; test ids are `name-check`, such as `a2c-updates_change_parameters`.
    """
    import pytest

    names: dict[str, int] = {}
    params = []
    for component in components:
        subjects: list[Subject] = []  # shared by the tests of a part, made by the first
        expected = _expected(component, expected_failures)
        count = names[component.name] = names.get(component.name, 0) + 1
        name = component.name if count == 1 else f"{component.name}{count}"
        known = checks_for(component)
        unknown = set(expected) - {one.name for one in known}
        if unknown:
            raise UsageError(f"expected failures of {name} name no check: {', '.join(sorted(unknown))}")
        for one in known:
            marks = [pytest.mark.xfail(reason=expected[one.name], strict=True)] if one.name in expected else []
            params.append(
                pytest.param(component, _Runnable(one, subjects), id=f"{name}-{one.name}", marks=marks),
            )
    return pytest.mark.parametrize(("component", "check"), params)


@dataclass(frozen=True)
class _Runnable:
    """What a test gets as `check`: called with the part it fails, skips or warns as pytest does."""

    check: Check
    subjects: list[Subject]

    def __call__(self, component: Target) -> None:
        import pytest

        if not self.subjects:
            self.subjects.append(_subject(component))
        outcome = _outcome(self.check, self.subjects[0])
        if outcome.status == "failed":
            pytest.fail(f"{outcome.message}", pytrace=False)
        if outcome.status == "skipped":
            pytest.skip(outcome.message)
        if outcome.status == "warned":
            warnings.warn(outcome.message, CheckWarning, stacklevel=2)


def _expected(component: Target, failures: Any) -> Expected:
    if failures is None:
        return {}
    if callable(failures):
        found: Expected = failures(component) or {}
        return found
    for key, reasons in failures.items():
        if key is component or key == component.name:
            found = reasons
            return found
    return {}


def settings_as_json(config: Component) -> str:
    """All settings of a part as JSON text."""
    return json.dumps(plain(dump(config)), sort_keys=True)


def with_settings(config: Any, **settings: Any) -> Any:
    """The same with other settings, validated; settings of parts in slots are given as instances."""
    present = {name: getattr(config, name) for name in type(config).model_fields}
    return type(config)(**{**present, **settings})


_SMALL: dict[str, Any] = {
    "hidden": (16,),
    "num_envs": 2,
    "num_steps": 8,
    "warmup_steps": 8,
    "batch_size": 16,
    "replay_size": 500,
    "epochs": 2,
}
"""Settings by the names they usually have, with which a part is quick."""


def small(config: Any, **settings: Any) -> Any:
    """The same part with small sizes, also in its slots; as it is where these do not fit."""
    known: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Component):
            known[name] = small(value)
        elif name in {**_SMALL, **settings}:
            known[name] = {**_SMALL, **settings}[name]
    try:
        return with_settings(config, **known)
    except ValueError:
        return config
