"""The command `rlkit`. It knows no algorithm's settings: options, help and errors come from the config classes."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command with the process's arguments; returns the exit code."""
    try:
        from rlkit_core.cli.root import execute

        return execute(sys.argv[1:])
    except KeyboardInterrupt:  # before the command itself looks out for it
        return 130
