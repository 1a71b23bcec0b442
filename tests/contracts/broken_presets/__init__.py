"""An algorithm with a preset that sets what there is not."""

from __future__ import annotations

from broken_plugins import GoodAlgorithm


class BrokenPresets(GoodAlgorithm):
    """Broken."""
