"""The execution plan: the choice of threads for a cached plan, and its JSON."""

from dataclasses import asdict, replace

import pytest
import torch

from tellapart.models import create
from tellapart.training.execution import autotune
from tellapart.training.execution.autotune import ExecutionPlan, find_fastest_plan, plan_from_json, use_threads


@pytest.fixture
def time_by_threads(monkeypatch):
    """Return a dict of the seconds of a step by the number of threads."""
    seconds = {}
    monkeypatch.setattr(autotune, "_time_plan", lambda network, images, plan: seconds[plan.threads])
    return seconds


def test_threads_of_a_cached_plan_are_adapted_only_for_a_clear_gain(time_by_threads):
    cached = ExecutionPlan(bfloat16=True, threads=8)

    def adapt(plan, available, seconds):
        time_by_threads.update(seconds)
        adapted = autotune._adapt_threads(None, torch.zeros(1, 1, 4, 4), plan, available)
        assert replace(adapted, threads=plan.threads) == plan
        return adapted.threads

    assert adapt(cached, 8, {8: 1.0, 4: 0.9, 2: 0.8, 1: 0.7}) == 8  # within chance
    assert adapt(cached, 8, {8: 1.0, 4: 0.5, 2: 0.4, 1: 0.45}) == 4
    assert adapt(cached, 8, {8: 1.0, 4: 0.7, 2: 0.5, 1: 0.2}) == 1
    # The CPU was in use when the plan was cached.
    assert adapt(replace(cached, threads=1), 8, {8: 0.7, 4: 0.9, 2: 0.95, 1: 1.0}) == 8
    assert adapt(replace(cached, threads=1), 1, {}) == 1


def test_the_fastest_plan_is_selected_and_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    network, default = create("lenet5", 10, 1), ExecutionPlan(threads=2)
    plans = []

    def time_plan(network, images, plan):
        plans.append(plan)
        return 0.5 if not plan.channels_last else 1.0

    monkeypatch.setattr(autotune, "_time_plan", time_plan)
    expected = replace(default, channels_last=False)
    assert find_fastest_plan(network, 32, 4, default, "float32") == expected
    timed = len(plans)
    assert timed > 2
    assert find_fastest_plan(network, 32, 4, default, "float32") == expected
    assert len(plans) < 2 * timed  # the cached plan is only checked for contention


def test_a_plan_is_restored_from_its_json():
    plan = ExecutionPlan(bfloat16=True, channels_last=False, threads=3, compiled="default")
    assert plan_from_json(asdict(plan)) == plan


def test_threads_are_restored():
    before = torch.get_num_threads()
    with use_threads(ExecutionPlan(threads=before + 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
