"""Checks of settings: what every part keeps, whatever its kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic.fields import FieldInfo

from rlkit_core.component import KINDS, Component, slots_of
from rlkit_core.config import RunConfig, plain
from rlkit_core.testing.checks import CheckSkipped, CheckWarning, Subject, check, fail, settings_as_json, small

ALL = tuple(KINDS)


@check(*ALL)
def name_can_be_typed(subject: Subject) -> None:
    """Its class has a name of letters, digits and `_.-`, which users type, and the kind of its base class."""
    cls = type(subject.config)
    name = cls.__dict__.get("name", getattr(cls, "name", None))
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        fail(f"{cls.__name__}.name is {name!r}", "give it `name: ClassVar[str] = ...`: letters, digits, _.-")
    if not issubclass(cls, KINDS[cls.kind]):
        fail(f"{cls.__name__}.kind is {cls.kind!r}, which is not its base class's", "leave `kind` as it is")


@check(*ALL)
def everything_is_described(subject: Subject) -> None:
    """The class has a docstring and every field a description: help and docs show them."""
    cls = type(subject.config)
    if not (cls.__dict__.get("__doc__") or "").strip():
        fail(f"{cls.__name__} has no docstring", "its first line is the help that users see")
    missing = [name for name, info in cls.model_fields.items() if not info.description]
    if missing:
        fail(f"no description: {cls.__name__}.{', .'.join(missing)}", "give each Field(description=...)")


@check(*ALL)
def numbers_are_bounded(subject: Subject) -> None:
    """Every field that is a number says which ones make sense: `gt`, `ge`, `lt`, `le`, or at least that it is finite.

    It is a warning.
    """
    for name, info in type(subject.config).model_fields.items():
        if _unbounded(info.annotation, info.metadata):
            message = f"{type(subject.config).__name__}.{name} takes any number, infinity and NaN among them"
            warnings.warn(f"{message}\ngive it bounds: Field(..., gt=0), or allow_inf_nan=False", CheckWarning)


def _unbounded(annotation: Any, metadata: Iterable[Any]) -> bool:
    bounds: list[Any] = []
    for item in metadata:
        bounds += item.metadata if isinstance(item, FieldInfo) else [item]
    if any(isinstance(item, (Ge, Gt, Le, Lt, Interval)) for item in bounds):
        return False
    if any(getattr(item, "allow_inf_nan", None) is False for item in bounds):
        return False
    if annotation in (int, float):
        return True
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _unbounded(annotation.__origin__, annotation.__metadata__)
    if get_origin(annotation) is dict:
        return False  # arguments of somebody else
    return any(_unbounded(part, ()) for part in get_args(annotation))


@check(*ALL)
def settings_are_frozen(subject: Subject) -> None:
    """A config that was made does not change."""
    config = subject.config
    for name in type(config).model_fields:
        value = getattr(config, name)
        try:
            setattr(config, name, value)
        except ValueError:
            continue
        fail(f"{type(config).__name__}.{name} can be set", "leave frozen=True of the base class in model_config")


@check(*ALL)
def unknown_settings_are_refused(subject: Subject) -> None:
    """A setting that does not exist, a misspelled one say, is an error."""
    config = subject.config
    present = {name: getattr(config, name) for name in type(config).model_fields}
    try:
        type(config)(**present, no_such_setting=1)
    except ValueError:
        return
    fail(f"{type(config).__name__} takes no_such_setting", 'leave extra="forbid" of the base class in model_config')


@check(*ALL)
def settings_go_through_json(subject: Subject) -> None:
    """Its settings are plain data, and written as JSON and read again they are equal."""
    config = subject.config
    try:
        again = _again(config)
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        fail(f"settings do not go through JSON: {text}", "fields are numbers, texts, lists and tables of them")
    for name in type(config).model_fields:
        if getattr(again, name) != getattr(config, name):
            fail(
                f"{type(config).__name__}.{name} is {getattr(config, name)!r}, and {getattr(again, name)!r} after JSON",
                "let validators and serialisers of the field be each other's inverse",
            )


def _again(config: Component) -> Component:
    slots = slots_of(type(config))
    data = config.model_dump(mode="json", exclude=set(slots), include=set(type(config).model_fields))
    values: dict[str, Any] = json.loads(json.dumps(plain(data)))
    return type(config).model_validate({**values, **{name: _again(getattr(config, name)) for name in slots}})


@check(*ALL)
def parts_are_in_slots(subject: Subject) -> None:
    """A field that takes another part is typed with its kind's class alone, so that users can put any other there."""
    cls = type(subject.config)
    for name, info in cls.model_fields.items():
        if name not in slots_of(cls) and _holds_part(info.annotation):
            fail(f"{cls.__name__}.{name} holds a part but is no slot", "type it with a kind's class: EstimatorConfig")


def _holds_part(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return True
    return any(map(_holds_part, get_args(annotation)))


@check("algorithm")
def hides_no_setting_of_the_run(subject: Subject) -> None:
    """None of an algorithm's fields has the name of one of the run's settings, such as `seed`."""
    hidden = sorted(set(type(subject.config).model_fields) & set(RunConfig.model_fields))
    if hidden:
        fail(f"{type(subject.config).__name__}.{', .'.join(hidden)} would hide the run's own", "rename it")


@check(*ALL)
def import_is_light(subject: Subject) -> None:
    """Importing the config class imports no torch, gymnasium or mlflow: help and completion stay quick.

    It is a warning.
    """
    cls = type(subject.config)
    heavy = _heavy_imports(cls.__module__)
    if heavy is None:
        raise CheckSkipped(f"module {cls.__module__} cannot be imported by itself")
    if heavy:
        message = f"importing {cls.__module__} imports {', '.join(heavy)}, which takes more than a second"
        warnings.warn(f"{message}\nlet `build` import the file that does the work", CheckWarning)


@lru_cache
def _heavy_imports(module: str) -> tuple[str, ...] | None:
    if module == "__main__":
        return None
    code = (
        "import importlib, sys; importlib.import_module(sys.argv[1])\n"
        "print('imported', *[m for m in ('torch', 'gymnasium', 'mlflow') if m in sys.modules])"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, env=environ)
    words = done.stdout.split()
    return tuple(words[words.index("imported") + 1 :]) if "imported" in words else None


@check(*(kind for kind in ALL if kind not in ("environment", "tracker", "executor")))
def building_leaves_settings_alone(subject: Subject) -> None:
    """`build` changes no setting, not even inside a list or table."""
    from rlkit_core.testing.building import build_any

    config = small(subject.config)
    before = settings_as_json(config)
    build_any(Subject(config, {"small": config}))
    if settings_as_json(config) != before:
        fail("build has changed a setting", "copy what is changed: a stored run must say what was asked for")


@check(*(kind for kind in ALL if kind not in ("environment", "tracker", "executor")))
def building_leaves_torch_alone(subject: Subject) -> None:
    """`build` changes neither torch's default dtype nor its number of threads: both belong to the caller."""
    import torch

    from rlkit_core.testing.building import build_any
    from rlkit_core.testing.cases import threads

    with threads(torch.get_num_threads()):
        before = torch.get_default_dtype(), torch.get_num_threads()
        try:
            build_any(subject)
            after = torch.get_default_dtype(), torch.get_num_threads()
        finally:
            torch.set_default_dtype(before[0])
    for what, was, now in zip(("default dtype", "number of threads"), before, after, strict=True):
        if was != now:
            fail(f"build has changed torch's {what} from {was} to {now}", "leave it: it is the caller's")
