"""The execution plan: a function of the recipe and the machine on a CPU, timed once on a GPU."""

from dataclasses import replace

import pytest
import torch

from recording import RecordingProgress
from tellapart.models import create
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.recipe.sections import ExecutionRecipe
from tellapart.training import execution_settings
from tellapart.training.execution import autotune, plan
from tellapart.training.execution.autotune import find_fastest_plan
from tellapart.training.execution.plan import ExecutionPlan, use_threads
from tellapart.training.execution_settings import keep_execution, resolve_execution

LENET = Recipe().with_settings(model="lenet5", size=32, channels=1, batch_size=4)


@pytest.fixture
def times(monkeypatch, tmp_path):
    """Return the plans that are timed, where channels first is fastest; the cache is empty."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    plans = []

    def time_plan(network, images, tried):
        plans.append(tried)
        return 0.5 if not tried.channels_last else 1.0

    monkeypatch.setattr(autotune, "time_plan", time_plan)
    return plans


def test_the_fastest_plan_is_selected_and_cached(times):
    network, default = create("lenet5", 10, 1), ExecutionPlan(threads=2)
    expected = replace(default, channels_last=False)
    assert find_fastest_plan(network, 32, 4, default, ExecutionRecipe()) == expected
    timed = len(times)
    assert {tried.compile_mode for tried in times} == {"none", "default", "reduce-overhead"}
    assert find_fastest_plan(network, 32, 4, default, ExecutionRecipe()) == expected
    assert len(times) == timed


def test_settings_of_the_recipe_are_not_changed_by_timing(times):
    settings = ExecutionRecipe(precision="float32", channels_last=True, compile_mode="none")
    default = ExecutionPlan(threads=2)
    assert find_fastest_plan(create("lenet5", 10, 1), 32, 4, default, settings) == default
    assert set(times) == {default}


def test_nothing_is_timed_on_a_cpu(times):
    resolved = resolve_execution(LENET, 10, Progress())
    assert times == []
    assert resolved.execution.precision in ("float32", "bfloat16")
    assert resolved.execution.threads == torch.get_num_threads()
    assert resolve_execution(resolved, 10, Progress()) == resolved


@pytest.mark.parametrize("settings", [{"deterministic": True}, {"autotune": False}, {}])
def test_on_a_gpu_plans_are_timed_unless_the_same_bits_are_wanted(times, monkeypatch, settings):
    class Device:
        type = "cuda"

    monkeypatch.setattr(execution_settings, "default_device", Device)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **kwargs: self)
    resolve_execution(LENET.with_settings(**settings), 10, Progress())
    assert bool(times) == (not settings)


def test_threads_follow_the_quota_of_a_container_and_the_recipe(monkeypatch):
    monkeypatch.setattr(plan, "cpu_count", lambda: 1)
    assert ExecutionPlan.of(LENET).threads == 1
    assert ExecutionPlan.of(LENET.with_settings(threads=3)).threads == 3


def test_more_threads_than_processors_are_reported():
    progress = RecordingProgress()
    resolve_execution(LENET.with_settings(threads=1000), 10, progress)
    assert progress.events == [Event.CPU_CONTENTION]


def test_a_resumed_run_keeps_what_the_user_does_not_set():
    saved = LENET.with_settings(threads=7, channels_last=False, precision="bfloat16", compile_mode="default")
    assert keep_execution(LENET, saved).execution == saved.execution
    assert keep_execution(LENET.with_settings(threads=2), saved).execution == replace(saved.execution, threads=2)


def test_a_plan_is_restored_from_its_settings():
    expected = ExecutionPlan(bfloat16=True, channels_last=False, threads=3, compile_mode="default")
    assert ExecutionPlan.of(LENET.with_values(expected.settings)) == expected


def test_threads_are_restored():
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
