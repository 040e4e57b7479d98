import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are fastest on one thread, in particular next to other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
