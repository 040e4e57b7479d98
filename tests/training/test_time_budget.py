"""The time limit of a run, by a clock that the tests set."""

from types import SimpleNamespace

import pytest

from tellapart.training import linear_probe, time_budget
from tellapart.training.time_budget import TimeBudget


@pytest.fixture
def clock(monkeypatch):
    """Return a clock with the seconds as `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: clock.now)
    return clock


def test_training_gets_what_the_steps_after_it_do_not_need(clock):
    budget = TimeBudget(100, clock.now, images_after=200, seconds_after=3)
    clock.now += 10
    assert budget.left == 90
    assert budget.left_for_training(0) == 87
    with budget.measure_prediction(50):
        clock.now += 5
    assert budget.seconds_per_image == pytest.approx(0.1)
    assert budget.left_for_training(0) == pytest.approx(85 - 3 - 20)
    assert budget.left_for_training(40) < budget.left_for_training(0)


def test_a_resumed_run_has_the_time_that_was_left(clock):
    budget = TimeBudget(100, clock.now)
    budget.resume(30)
    assert budget.left == 70


def test_folds_share_the_time(clock):
    budget = TimeBudget(100, clock.now, seconds_after=4)
    ends = []
    for fold in range(3):
        part = budget.part(1 / (3 - fold), images_after=0)
        clock.now += part.left
        ends.append(clock.now - 1000)
    assert ends == pytest.approx([32, 64, 96])


@pytest.mark.parametrize(("left", "expected"), [(1000, 9), (40, 6), (3, 1), (-5, 1)])
def test_augmented_copies_take_a_share_of_the_time(clock, left, expected):
    assert linear_probe._affordable_views(TimeBudget(left + 0.1, clock.now), 9, 2.0) == expected


def test_without_a_limit_all_augmented_copies_are_used():
    assert linear_probe._affordable_views(None, 9, 2.0) == 9
