"""Where the processes of one start meet.

torchrun gives processes that it restarts the store of those that died, where their addresses still stand, so that
torch's own meeting hangs (pytorch issue 135712); nor do the machines count their restarts alike. So each process
signs in under a fresh name, and all go on in a part of the store that belongs to these names.
"""

import hashlib
import json
import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from tellapart.errors import RankLost

_PAUSE = 0.02


def meet(timeout: timedelta) -> tuple[Store, int, int]:
    """Return a store that only the processes of this start use, this one's rank, and how many there are.

    Raises `RankLost` if not all come within the time.
    """
    try:
        store, rank, count = next(iter(rendezvous("env://", timeout=timeout)))
    except (RuntimeError, ValueError) as error:  # of the network, or of torchrun's variables
        raise RankLost(f"Cannot reach the other processes, as torchrun names them: {error}.") from error
    ends = time.monotonic() + timeout.total_seconds()
    name = uuid.uuid4().hex
    store.set(f"name/{rank}", name)
    while time.monotonic() < ends:
        names = _call_roll(store, count) if rank == 0 else _roll(store)
        place = hashlib.sha256("".join(names).encode()).hexdigest()[:32]
        if len(names) == count and names[rank] == name:
            store.set(f"{place}/{rank}", "here")
            if rank == 0 and store.check([f"{place}/{other}" for other in range(count)]):
                store.set(f"{place}/all", "here")
            if store.check([f"{place}/all"]):
                return PrefixStore(place, store), rank, count
        time.sleep(_PAUSE)
    raise RankLost(f"Not all of the {count} processes came within {timeout.total_seconds() / 60:g} minutes.")


def _call_roll(store: Store, count: int) -> list[str]:
    """Write down the names of all ranks; one that died may be among them, until its successor signs in."""
    keys = [f"name/{rank}" for rank in range(count)]
    names = [store.get(key).decode() for key in keys] if store.check(keys) else []
    store.set("roll", json.dumps(names))
    return names


def _roll(store: Store) -> list[str]:
    return list(json.loads(store.get("roll"))) if store.check(["roll"]) else []
