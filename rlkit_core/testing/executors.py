"""Checks of executors: each is given tasks that end at once, because their folders hold no run that could be begun."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlkit_core.executor import Ended, Executor, Task
from rlkit_core.run_folder import write_json
from rlkit_core.testing.checks import CheckSkipped, Subject, check, fail, reason, relies_on

TASKS: tuple[tuple[Any, int], ...] = (
    ({"format": 0}, 6),
    ({"format": 1, "config": {}, "more": {}}, 2),
    ({"format": 0}, 6),
    ({"format": 0}, 6),
)
"""Contents of `task.json`, each with the exit code of `do_task`."""
STOPPED = (2, 3)
"""Tasks that are stopped before there is room for them."""
PATIENCE, AFTER_OTHERS = 120.0, 2.0
"""Seconds for which a task is waited for that ends at once; for one that was stopped, after all others have."""


@check("executor")
def builds_an_executor(subject: Subject) -> None:
    """`build` gives an Executor for any number of jobs; one that has nothing to do is closed at once, and again."""
    for jobs in (1, 3):
        executor = subject.config.build(jobs)
        if not isinstance(executor, Executor):
            fail(f"build gave a {type(executor).__name__}", "return an rlkit_core.executor.Executor")
        executor.close()
        executor.close()


def _ended(subject: Subject) -> list[tuple[int, Ended]]:
    """How the tasks come out, each with its number, all but the first of them asked to stop before there is room."""

    def compute() -> list[tuple[int, Ended]]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _executor(subject) as executor:
            tasks = [Task(Path(folder) / f"task{i}") for i in range(len(TASKS))]
            for task, (content, _) in zip(tasks, TASKS, strict=True):
                task.run_dir.mkdir()
                write_json(task.run_dir / "task.json", content)
                executor.start(task)
            for i in STOPPED:
                executor.stop(tasks[i])
            found: list[tuple[int, Ended]] = []
            deadline = time.monotonic() + PATIENCE
            others = set(range(len(tasks))) - set(STOPPED)
            while (missing := set(range(len(tasks))) - {i for i, _ in found}) and time.monotonic() < deadline:
                came = [(tasks.index(ended.task), ended) for ended in executor.wait(1.0)]
                found += came
                if not came:
                    time.sleep(0.05)  # it may be one that does not wait
                if not missing & others:
                    deadline = min(deadline, time.monotonic() + AFTER_OTHERS)
            found += [(tasks.index(ended.task), ended) for ended in executor.wait(0.0)]
            return found

    result: list[tuple[int, Ended]] = subject.once("ended", compute)
    return result


@contextmanager
def _executor(subject: Subject) -> Iterator[Executor]:
    with relies_on("builds_an_executor"):
        executor = subject.config.build(1)
        if not isinstance(executor, Executor):
            raise CheckSkipped(f"build gave a {type(executor).__name__}", "builds_an_executor")
    try:
        yield executor
    finally:
        executor.close()


@check("executor")
def every_task_comes_out_once(subject: Subject) -> None:
    """Every task that was started comes out of `wait` once, also one that was stopped."""
    try:
        ended = _ended(subject)
    except CheckSkipped:
        raise
    except Exception as error:
        fail(f"computing tasks raised {reason(error)}", "see Executor: start, wait, stop, close")
    count = Counter(i for i, _ in ended)
    for i in range(len(TASKS)):
        if count[i] != 1:
            fail(
                f"a task that {'was stopped' if i in STOPPED else 'had ended'} came out {count[i]} times",
                "keep what has ended until the next call of wait, and give it once",
            )


@check("executor")
def tasks_end_as_they_do(subject: Subject) -> None:
    """A task's exit code is that of `rlkit_core.group.do_task`; what went wrong is told."""
    with relies_on("every_task_comes_out_once"):
        ended = dict(_ended(subject))
    for i, (_, code) in enumerate(TASKS):
        if i in STOPPED or i not in ended:
            continue
        if ended[i].exit_code != code:
            fail(f"a task that ends with {code} came out with {ended[i].exit_code}", "give what do_task returns")
        if not ended[i].error:
            fail(f"a task that ended with {code} came out without an error", "make it with Ended.of")


@check("executor")
def what_waits_can_be_stopped(subject: Subject) -> None:
    """A task that is stopped while there is no room for it never starts, and comes out as interrupted: 130."""
    with relies_on("every_task_comes_out_once"):
        ended = dict(_ended(subject))
    for i in STOPPED:
        if i in ended and ended[i].exit_code != 130:
            fail(f"it came out with {ended[i].exit_code}", "take it out of what waits, and give it exit code 130")
