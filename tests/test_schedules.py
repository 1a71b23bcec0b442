"""Settings that change over a run, and what is due when."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit_core.builtin.schedules import Clock, GradientSteps, Schedule, Shape
from rlkit_core.errors import UsageError

PARTITIONS = st.lists(st.integers(0, 500), max_size=20)
RATES = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0, 2.0, 2.5, 8.0]) | st.floats(1e-9, 10)
WARM_UPS = st.integers(0, 3000)


def test_counting() -> None:
    one, other = Clock(), Clock()
    assert one.steps == 0
    for n in (3, 0, 4):
        one.advance(n)
    assert (one.steps, other.steps) == (7, 0)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for clock in (one, other):
        clock.advance(2)
    assert one.steps == other.steps == 9
    assert type(other.steps) is int


def values(
    shape: Shape, steps: list[int], initial: float = 0.5, duration: float = 10, final: float = 0.1
) -> list[float]:
    clock = Clock()
    schedule = Schedule(clock, initial, shape, duration, final)
    answer = []
    for before, now in pairwise([0, *steps]):
        clock.advance(now - before)
        answer.append(schedule.value)
    return answer


def test_shapes_by_hand() -> None:
    steps = [0, 1, 5, 9, 10, 11, 10_000]
    assert values("constant", steps) == [0.5] * 7
    assert values("step", steps) == [0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1]
    assert values("linear", steps) == pytest.approx([0.5, 0.46, 0.3, 0.14, 0.1, 0.1, 0.1], abs=1e-15)
    assert values("linear", steps, initial=0.0, final=1.0) == pytest.approx([0, 0.1, 0.5, 0.9, 1, 1, 1], abs=1e-15)


@given(
    st.sampled_from(get_args(Shape)),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1e6),
    st.lists(st.integers(0, 10**6)),
)
def test_a_schedule_goes_from_one_end_to_the_other(
    shape: Shape, initial: float, final: float, duration: float, steps: list[int]
) -> None:
    """The ends are exact; in between it never turns round, nor leaves them by more than rounding."""
    steps = sorted(steps)
    answer = values(shape, steps, initial, duration, final)
    low, high = min(initial, final), max(initial, final)
    for step, value in zip(steps, answer, strict=True):
        assert low - 1e-15 <= value <= high + 1e-15
        if shape == "constant" or (shape == "step" and step < duration):
            assert value == initial
        elif step >= duration:
            assert value == final
    sign = 1 if final >= initial else -1
    assert all(sign * (then - now) >= -1e-15 for now, then in pairwise(answer))
    if duration > 0:
        assert values(shape, [0], initial, duration, final) == pytest.approx([initial], abs=1e-15)


def test_a_schedule_of_no_duration_is_at_its_end() -> None:
    for shape in ("linear", "step"):
        assert values(shape, [0, 1], duration=0) == [0.1, 0.1]  # type: ignore[arg-type]


def test_schedules_share_a_clock_that_is_taken_back() -> None:
    clock = Clock()
    up, down = Schedule(clock, 0.0, "linear", 10, 1.0), Schedule(clock, 1.0, "linear", 20)
    clock.advance(5)
    assert (up.value, down.value) == (0.5, 0.75)
    clock.load_state_dict({"steps": 8})
    assert (up.value, down.value) == pytest.approx((0.8, 0.6))


def due(parts: list[int], rate: float, warm_up: int) -> list[int]:
    """Gradient steps that are due after each part of the steps."""
    clock = Clock()
    gradient_steps = GradientSteps(clock, rate, warm_up, 10**18)
    counts = []
    for part in parts:
        clock.advance(part)
        before = gradient_steps.number
        numbers = list(gradient_steps.due())
        assert numbers == list(range(before + 1, gradient_steps.number + 1))
        assert list(gradient_steps.due()) == []
        counts.append(len(numbers))
    return counts


def test_gradient_steps_by_hand() -> None:
    assert due([1] * 8, 0.25, 0) == [0, 0, 0, 1, 0, 0, 0, 1]
    assert due([1] * 6, 2.0, 3) == [0, 0, 0, 2, 2, 2]
    assert due([1] * 8, 0.5, 3) == [0, 0, 0, 0, 1, 0, 1, 0]
    assert due([8] * 5, 1.0, 20) == [0, 0, 4, 8, 8]
    assert due([1000], 1.0, 1000) == [0]


@given(PARTITIONS, RATES, WARM_UPS)
def test_however_the_steps_come_as_many_gradient_steps_are_due(parts: list[int], rate: float, warm_up: int) -> None:
    """In all the rate times the steps behind the warm-up, rounded down; none is owed twice, none forgotten."""
    ends = list(accumulate(parts, initial=0))
    counts = due(parts, rate, warm_up)
    assert sum(counts) == sum(due([ends[-1]], rate, warm_up)) == int(rate * max(0, ends[-1] - warm_up))
    for before, after, number in zip(ends[:-1], ends[1:], counts, strict=True):
        if after <= warm_up:
            assert number == 0
        assert abs(number - rate * (max(after, warm_up) - max(before, warm_up))) < 1 + 1e-9


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 400))
def test_one_gradient_step_every_so_many_steps(every: int, warm_up: int, steps: int) -> None:
    """A rate of 1/n, written as a float, is due at each n-th step behind the warm-up and at no other."""
    expected = [int(t + 1 > warm_up and (t + 1 - warm_up) % every == 0) for t in range(steps)]
    assert due([1] * steps, 1 / every, warm_up) == expected


@pytest.mark.parametrize(("rate", "warm_up"), [(1.0, 1_000), (1.0, 5_000), (0.001, 1), (1e-9, 0)])
def test_a_run_without_a_gradient_step_is_refused(rate: float, warm_up: int) -> None:
    gradient_steps = GradientSteps(Clock(), rate, warm_up, 1_000)  # as a stored policy is built
    with pytest.raises(UsageError, match=r"no gradient step is due within 1,000 steps"):
        list(gradient_steps.due())
    assert list(GradientSteps(Clock(), rate, warm_up, warm_up + int(1 / rate) + 1).due()) == []


def test_gradient_steps_that_were_not_taken_stay_due() -> None:
    clock = Clock()
    gradient_steps = GradientSteps(clock, 1.0, 0, 10**18)
    clock.advance(3)
    for number in gradient_steps.due():
        assert number == 1
        break  # what learning stopped at
    clock.advance(1)
    other = GradientSteps(clock, 1.0, 0, 10**18)
    other.load_state_dict(json.loads(json.dumps(gradient_steps.state_dict())))
    assert list(gradient_steps.due()) == list(other.due()) == [2, 3, 4]
