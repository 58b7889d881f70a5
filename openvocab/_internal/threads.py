"""Keeps the threads of torch, BLAS and ONNX Runtime from taking each other's cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvocab._internal.environment import preserve_environ

# The largest product that OpenBLAS computes in the calling thread: elements of one row's
# product, and rows.
_MAX_ELEMENTS, _MAX_ROWS = 9000, 28

_process_id = os.getpid()


def matmul_nt(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.floating]:
    """`left @ right.T` of `(N, D)` and `(K, D)`, computed without waking BLAS threads.

    Once woken, they spin for some 50 ms and take a core from the network that runs next: on two
    cores, an image with ten boxes took half as long again.

    >>> matmul_nt(np.eye(2), np.ones((1, 2)))
    array([[1.],
           [1.]])
    """
    product = np.empty((len(left), len(right)), np.result_type(left, right))
    columns = max(_MAX_ELEMENTS // max(left.shape[1], 1), 1)
    for row in range(0, len(left), _MAX_ROWS):
        for column in range(0, len(right), columns):
            block = np.s_[row : row + _MAX_ROWS], np.s_[column : column + columns]
            product[block] = left[block[0]] @ right[block[1]].T
    return product


@contextmanager
def single_openmp_thread() -> Iterator[None]:
    """Limit torch to one core in this thread, around a call of ONNX Runtime.

    A second OpenMP thread, once woken, spins while it waits for more work and takes a core from
    ONNX Runtime's own threads: on two cores, a detector takes twice as long beside it.

    >>> import torch
    >>> with single_openmp_thread():
    ...     torch.get_num_threads()
    1
    """
    with _openmp().limit(limits=1):
        yield


def limit_threads_after_fork() -> None:
    """In a forked child, limit torch to one thread; to be called before a model runs.

    GNU OpenMP, which torch's CPU builds use, would wait forever for threads that exist only in the
    parent process.
    """
    global _process_id  # noqa: PLW0603
    if os.getpid() != _process_id:
        import torch

        torch.set_num_threads(1)
        _process_id = os.getpid()


@cache
def _openmp() -> Any:  # noqa: ANN401
    import torch  # noqa: F401  loads the OpenMP library that is looked up below

    with preserve_environ():
        from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")
