"""Rendezvous of the processes of one start.

torchrun gives restarted processes the store of the previous ones. It still holds their addresses, so that PyTorch's
own rendezvous hangs (pytorch issue 135712), and the machines do not agree on the number of restarts. Each process
therefore registers under a fresh name, and all of them use a section of the store that belongs to these names.
"""

import hashlib
import json
import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from tellapart.errors import RankLostError

_POLL_SECONDS = 0.02


def open_store(timeout: timedelta) -> tuple[Store, int, int]:
    """Return a store that only the processes of this start use, the rank of this process, and the world size.

    Raises `RankLostError` if the processes do not all register within the timeout.
    """
    try:
        store, rank, world_size = next(iter(rendezvous("env://", timeout=timeout)))
    except (RuntimeError, ValueError) as error:  # of the network, or of torchrun's variables
        raise RankLostError(f"Cannot reach the other processes at the address that torchrun gave: {error}.") from error
    deadline = time.monotonic() + timeout.total_seconds()
    name = uuid.uuid4().hex
    store.set(f"name/{rank}", name)
    while time.monotonic() < deadline:
        names = _publish_names(store, world_size) if rank == 0 else _read_names(store)
        prefix = hashlib.sha256("".join(names).encode()).hexdigest()[:32]
        if len(names) == world_size and names[rank] == name:
            store.set(f"{prefix}/{rank}", "ready")
            if rank == 0 and store.check([f"{prefix}/{other}" for other in range(world_size)]):
                store.set(f"{prefix}/all", "ready")
            if store.check([f"{prefix}/all"]):
                return PrefixStore(prefix, store), rank, world_size
        time.sleep(_POLL_SECONDS)
    minutes = timeout.total_seconds() / 60
    raise RankLostError(f"Expected {world_size} processes, but not all of them started within {minutes:g} minutes.")


def _publish_names(store: Store, world_size: int) -> list[str]:
    """Publish the names of all ranks; the name of a dead process may be among them until its successor registers."""
    keys = [f"name/{rank}" for rank in range(world_size)]
    names = [store.get(key).decode() for key in keys] if store.check(keys) else []
    store.set("names", json.dumps(names))
    return names


def _read_names(store: Store) -> list[str]:
    return list(json.loads(store.get("names"))) if store.check(["names"]) else []
