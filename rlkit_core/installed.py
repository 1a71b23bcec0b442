"""Installed distributions that announce something for rlkit, found by a look into their files and nothing more.

`importlib.metadata` builds an object for every distribution there is, and parses each; there may be hundreds, and help
has to be there at once. So the files are looked through for our groups first, which costs a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution

GROUP = "rlkit."
"""What the names of our groups of entry points begin with."""
ALLOWED = "RLKIT_PLUGINS"
"""Variable of the environment: the distributions whose plugins count, separated by commas; not set: all."""
OURS = "rlkit-core"


def announcing(group: str = GROUP) -> Iterator[Distribution]:
    """Distributions that announce something in a group, those first that Python would find first.

    The same one may come again, from further down the path.

    Args:
        group: a group's name, or what several begin with.
    """
    marker = f"[{group}".encode()
    for place in sys.path:
        try:
            with os.scandir(place or ".") as found:
                names = sorted(entry.name for entry in found if entry.name.lower().endswith(_METADATA))
        except NotADirectoryError:  # an archive
            yield from _by_python([place])
            continue
        except OSError:
            continue
        for name in names:
            folder = os.path.join(place or ".", name)
            with contextlib.suppress(OSError):
                with open(os.path.join(folder, "entry_points.txt"), "rb") as file:
                    announces = marker in file.read()
                if announces:
                    from importlib.metadata import PathDistribution
                    from pathlib import Path

                    yield PathDistribution(Path(folder))
    for finder in sys.meta_path:
        # Python's own one looks into the path; others have ways of their own.
        if getattr(finder, "__name__", "") != "PathFinder" and hasattr(finder, "find_distributions"):
            with contextlib.suppress(Exception):
                yield from finder.find_distributions()


_METADATA = (".dist-info", ".egg-info", "egg-info")


def _by_python(path: list[str]) -> Iterator[Any]:
    from importlib.metadata import distributions

    with contextlib.suppress(Exception):
        yield from distributions(path=path)


def is_allowed(distribution: str) -> bool:
    """Whether a distribution's plugins count."""
    listed = os.environ.get(ALLOWED)
    if listed is None or normal(distribution) == OURS:
        return True
    return normal(distribution) in {normal(name) for name in re.split(r"[,\s]+", listed) if name}


@contextlib.contextmanager
def no_plugins() -> Iterator[None]:
    """Inside, only what comes with rlkit counts."""
    before = os.environ.get(ALLOWED)
    os.environ[ALLOWED] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[ALLOWED]
        else:
            os.environ[ALLOWED] = before


def normal(distribution: str) -> str:
    """A distribution's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
