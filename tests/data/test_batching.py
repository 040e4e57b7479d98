"""Batches fetched ahead: in order, bounded, faults at their place, no thread left behind."""

import threading
import time
from itertools import islice

import numpy as np
import pytest

from tellapart.data.batching import blocks, pixel_batches, prefetched


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("tellapart-prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_order_is_kept_and_each_item_is_fetched_once(depth, count):
    fetched = []
    found = list(prefetched(lambda item: fetched.append(item) or item * 10, range(count), depth))
    assert found == [(item, item * 10) for item in range(count)]
    assert fetched == list(range(count))
    assert not threads()


def test_fetching_goes_on_while_the_consumer_computes():
    fetched = []
    batches = prefetched(fetched.append, range(10), depth=2)
    next(batches)
    deadline = time.monotonic() + 10
    while len(fetched) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # would be time enough for a fourth
    assert fetched == [0, 1, 2]
    batches.close()


def test_a_fault_is_raised_at_its_place():
    def fetch(item):
        if item == 3:
            raise KeyError("the fourth")
        return item

    batches = prefetched(fetch, range(10), depth=5)
    assert [result for _, result in islice(batches, 3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="the fourth"):
        next(batches)
    assert not threads()


@pytest.mark.parametrize("how", ["close", "break", "raise"])
def test_the_thread_ends_when_the_consumer_stops_early(how):
    fetched = []
    if how == "close":
        batches = prefetched(fetched.append, range(1000))
        next(batches)
        batches.close()
    elif how == "break":
        for item, _ in prefetched(fetched.append, range(1000)):
            if item == 4:
                break
    else:

        def consume():
            for _ in prefetched(fetched.append, range(1000)):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            consume()
    assert not threads()
    assert len(fetched) < 20


def test_items_may_be_endless():
    def endless():
        item = 0
        while True:
            yield item
            item += 1

    assert [result for _, result in islice(prefetched(lambda item: item, endless()), 5)] == list(range(5))


def test_blocks_cover_all_once():
    for count in (0, 1, 63, 64, 65, 200):
        assert [place for block in blocks(count, 64) for place in range(count)[block]] == list(range(count))


def test_batches_of_an_array_are_copies():
    pixels = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    pixels.setflags(write=False)
    for places, batch in pixel_batches(pixels, [slice(0, 2), slice(2, 5)]):
        assert np.array_equal(batch, pixels[places])
        assert batch.flags.writeable
