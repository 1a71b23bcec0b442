"""The executors that come along: their settings; the modules that do the work are imported where they are built."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rlkit_core.component import ExecutorConfig

if TYPE_CHECKING:
    from rlkit_core.executor import Executor


class ProcessesConfig(ExecutorConfig):
    """Processes of this machine: each run in one of its own, as many at a time as there are jobs."""

    name: ClassVar[str] = "processes"

    start_method: Literal["auto", "fork", "spawn"] = Field(
        "auto",
        description="fork: copies of one process that has imported everything already; spawn: a new interpreter for "
        "each run, which takes seconds; auto: fork on Linux where nothing speaks against it",
    )

    def build(self, jobs: int) -> Executor:
        """Build it."""
        from rlkit_core.builtin.processes_executor import ProcessesExecutor

        return ProcessesExecutor(jobs, self.start_method)
