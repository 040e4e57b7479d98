"""Ranks exchange JSON, bytes and arrays without pickle."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tellapart.errors import RankMismatchError
from tellapart.training.execution.distributed import Ranks
from tellapart.training.execution.exchange import decode_arrays, encode_arrays

PROGRAM = """
import sys
from pathlib import Path

import numpy as np
import torch
from tellapart.errors import RankMismatchError
from tellapart.progress import Progress
from tellapart.io.run_directory import RunDirectory
from tellapart.training.checkpointing.policy import load_own_checkpoint
from tellapart.training.checkpointing.store import save_checkpoint
from tellapart.training.execution.distributed import join_ranks

import pickle

def refuse(*arguments, **options):
    raise RuntimeError("pickled")

pickle.dumps = pickle.loads = pickle.Pickler = pickle.Unpickler = refuse

with join_ranks() as ranks:
    assert ranks.world_size == 3
    value = {"share": 0.1 + 0.2, "text": "\\u00e9", "list": [1, None, True]}
    assert ranks.broadcast(lambda: value if ranks.is_first else 1 / 0) == value
    assert ranks.broadcast(lambda: None) is None
    assert ranks.broadcast_bytes(lambda: b"\\0content" if ranks.is_first else 1 / 0) == b"\\0content"
    assert ranks.broadcast_bytes(lambda: b"") == b""
    assert ranks.sum(torch.tensor([1.0, float(ranks.rank)])).tolist() == [3.0, 3.0]
    for count in (1, 2, 7):
        rows = ranks.gather_rows(lambda indices: np.stack([indices, indices**2], axis=1).astype(np.float32), count)
        assert rows.dtype == np.float32
        assert rows.tolist() == [[i, i**2] for i in range(count)]
    weights = {"weight": torch.full((2,), float(ranks.rank))}
    ranks.broadcast_tensors(weights)
    assert weights["weight"].tolist() == [0.0, 0.0]
    order = []
    ranks.run_in_turn(lambda: order.append(ranks.rank))
    assert order == [ranks.rank]
    ranks.require_same("a", "letters")
    try:
        ranks.require_same("b" if ranks.rank == 2 else "a", "letters")
    except RankMismatchError:
        pass
    else:
        raise SystemExit("a difference was not detected")
    # Only rank 0 has the checkpoint in its folder.
    folder = Path(sys.argv[1]) / str(ranks.rank)
    assert load_own_checkpoint(folder, "run", Progress(), ranks) is None
    tensors = {"network": {"weight": torch.arange(3.0), "count": torch.tensor(7)}, "optimizer": {}}
    if ranks.is_first:
        save_checkpoint(RunDirectory(folder).checkpoints, 5, tensors, {"identity": "run", "step": 5})
    checkpoint = load_own_checkpoint(folder, "run", Progress(), ranks)
    assert checkpoint.document == {"identity": "run", "step": 5}
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all(torch.equal(value, checkpoint.tensors["network"][name]) for name, value in tensors["network"].items())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun does not support gloo on Windows")
def test_ranks_exchange_values_bytes_rows_and_checkpoints_without_pickle(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "program.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_arrays_are_restored_and_python_objects_refused():
    arrays = {"rows": np.arange(6, dtype=np.float32).reshape(2, 3), "flags": np.array([True]), "none": np.empty((0, 4))}
    decoded = decode_arrays(encode_arrays(**arrays))
    assert decoded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        assert np.array_equal(decoded[name], array)
    with pytest.raises(ValueError):  # noqa: PT011
        encode_arrays(rows=np.array([{}], object))
    buffer = io.BytesIO()
    np.savez(buffer, rows=np.array([{}], object))
    with pytest.raises(ValueError):  # noqa: PT011
        decode_arrays(buffer.getvalue())
    with pytest.raises(ValueError):  # noqa: PT011
        decode_arrays(pickle.dumps({"rows": 1}))


def test_a_single_process_exchanges_nothing():
    ranks, value = Ranks(), (1, [2])
    assert ranks.broadcast(lambda: value) is value
    assert ranks.broadcast_bytes(lambda: b"content") == b"content"
    assert ranks.gather_rows(lambda indices: indices * 2, 3).tolist() == [0, 2, 4]
    assert ranks.run_in_turn(lambda: value) is value
    ranks.require_same("value", "values")
    ranks.barrier()
    assert RankMismatchError.code == "rank_mismatch"
