"""The checks check: for each there is a broken plugin that fails it and no other, and the good ones fail none."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from broken_plugins import GOOD, broken

from rlkit_core.testing.checks import Outcome, all_checks, run_checks

CHECKS = [one.name for one in all_checks()]
WARNINGS = {"numbers_are_bounded", "import_is_light"}
TORCH_IS_IMPORTED = "import_is_light"
"""What the broken plugins warn of, all in one file: it imports torch."""


def alarms(component: object, leave_out: Collection[str] = ()) -> dict[str, Outcome]:
    """Outcomes of the checks that it does not pass."""
    outcomes = run_checks(component, leave_out=leave_out)  # type: ignore[arg-type]
    return {one.check: one for one in outcomes if one.status in ("failed", "warned")}


OWN_CHECKS = [name for name in CHECKS if name != TORCH_IS_IMPORTED]


@pytest.mark.parametrize("check", OWN_CHECKS)
def test_a_broken_plugin_fails_its_check(check: str) -> None:
    found = alarms(broken(check), leave_out=set(CHECKS) - {check})
    assert set(found) == {check}
    outcome = found[check]
    assert outcome.status == ("warned" if check in WARNINGS else "failed")
    assert 2 <= len(outcome.message.splitlines()) <= 3, outcome.message
    assert outcome.message.startswith(f"{broken(check).kind} {broken(check).name}: ")


@pytest.mark.thorough
@pytest.mark.parametrize("check", OWN_CHECKS)
def test_a_broken_plugin_fails_no_other_check(check: str) -> None:
    found = alarms(broken(check))
    assert found.pop(TORCH_IS_IMPORTED).status == "warned"  # for the file that they all stand in
    assert set(found) == {check}, "\n".join(f"{one.check}: {one.message}" for one in found.values())


@pytest.mark.parametrize("component", GOOD, ids=lambda cls: cls.__name__)
def test_the_good_ones_fail_none(component: type) -> None:
    assert set(alarms(component)) == {TORCH_IS_IMPORTED}
