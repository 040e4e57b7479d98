"""Batches are prefetched in order and in a bounded number, raise errors in turn, and leave no thread behind."""

import contextlib
import threading
import time
from itertools import count, islice

import numpy as np
import pytest

from tellapart.data.batching import batch_slices, pixel_batches, prefetch


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tellapart-prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 20])
def test_fetches_each_item_once_and_in_order(depth, length):
    fetched = []
    results = list(prefetch(lambda item: fetched.append(item) or item * 10, range(length), depth))
    assert results == [(item, item * 10) for item in range(length)]
    assert fetched == list(range(length))
    assert not prefetch_threads()


def test_fetches_while_the_consumer_computes():
    fetched = []
    batches = prefetch(fetched.append, range(10), depth=2)
    next(batches)
    deadline = time.monotonic() + 10
    while len(fetched) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # enough time for a fourth item
    assert fetched == [0, 1, 2]
    batches.close()


def test_raises_an_error_when_it_is_the_turn_of_its_item():
    def fetch(item):
        if item == 3:
            raise KeyError(item)
        return item

    batches = prefetch(fetch, range(10), depth=5)
    assert [result for _, result in islice(batches, 3)] == [0, 1, 2]
    with pytest.raises(KeyError) as error:
        next(batches)
    assert error.value.args == (3,)
    assert not prefetch_threads()


def close_early(fetch):
    batches = prefetch(fetch, range(1000))
    next(batches)
    batches.close()


def break_early(fetch):
    for item, _ in prefetch(fetch, range(1000)):
        if item == 4:
            break


def raise_early(fetch):
    with contextlib.suppress(ZeroDivisionError):
        for _ in prefetch(fetch, range(1000)):
            raise ZeroDivisionError


@pytest.mark.parametrize("consume", [close_early, break_early, raise_early])
def test_the_thread_ends_when_the_consumer_stops_early(consume):
    fetched = []
    consume(fetched.append)
    assert not prefetch_threads()
    assert len(fetched) < 20


def test_items_may_be_infinite():
    assert [result for _, result in islice(prefetch(lambda item: item, count()), 5)] == list(range(5))


def test_slices_cover_all_indices_once():
    for length in (0, 1, 63, 64, 65, 200):
        assert [index for batch in batch_slices(length, 64) for index in range(length)[batch]] == list(range(length))


def test_batches_of_an_array_are_copies():
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    pixels.setflags(write=False)
    for indices, batch in pixel_batches(pixels, [slice(0, 2), slice(2, 5)]):
        assert np.array_equal(batch, pixels[indices])
        assert batch.flags.writeable
