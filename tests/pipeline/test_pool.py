import os
import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pool import MemoryPool


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again_once_no_view_is_left():
    pool = MemoryPool(kept_bytes=10_000)
    first = pool.empty((2, 500))
    first[...] = 7
    view, where = first[1:, 3:], address(first)
    del first
    other = pool.empty((1000,))
    assert address(other) != where
    assert view.min() == view.max() == 7
    del view
    again = pool.empty((10, 10, 9))
    assert address(again) == where
    assert again.shape == (10, 10, 9)
    assert again.flags.writeable
    assert again.flags.c_contiguous


def test_small_arrays_do_not_sit_in_large_memory():
    pool = MemoryPool(kept_bytes=10_000)
    large = pool.empty((4096,))
    where = address(large)
    del large
    assert address(pool.empty((2047,))) != where
    assert address(pool.empty((2048,))) == where


def test_no_more_is_kept_than_is_allowed():
    pool = MemoryPool(kept_bytes=3000)
    held = [pool.empty((1000,)) for _ in range(5)]
    wheres = [address(array) for array in held]
    while held:
        del held[0]
    free = {address(array) for array in [pool.empty((1000,)) for _ in range(3)]}
    assert len(free & set(wheres)) <= 3
    assert pool.empty((0, 4)).shape == (0, 4)


@given(st.lists(st.integers(1, 3000), max_size=40), st.integers(0, 5))
def test_arrays_that_are_held_never_share_memory(sizes, most):
    pool = MemoryPool(kept_bytes=5000)
    held: list[tuple[int, np.ndarray]] = []
    for number, size in enumerate(sizes):
        array = pool.empty((size,))
        array[...] = number
        held = [*held, (number, array)][-max(1, most) :]
        del array
        for value, one in held:
            assert (one == value).all()


def test_a_forked_process_does_not_write_into_its_parents_memory():
    pool = MemoryPool(kept_bytes=10**6)
    free = pool.empty((5000,))
    free[...] = 1
    del free
    child = os.fork()
    if child == 0:
        pool.empty((5000,))[...] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (pool.empty((5000,)) == 1).all()


def test_threads_share_it():
    pool = MemoryPool(kept_bytes=10**6)
    wrong: list[int] = []

    def work(number: int) -> None:
        for size in range(1, 300):
            array = pool.empty((size * 7,))
            array[...] = number
            if (array != number).any():
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
