"""The key table against a dict: any sequence of additions, removals and look-ups, with collisions and rebuilds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from streams.keytable import EMPTY, PROVISIONAL, Keys, KeyTable


def mixed(numbers: list[int] | range) -> Keys:
    """Keys that are spread over the table."""
    keys: Keys = np.array(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def crowded(numbers: list[int] | range) -> Keys:
    """Keys of which a dozen at a time have one home; they differ in bits that the home does not use."""
    codes = np.array(numbers, np.uint64)
    keys: Keys = (
        (codes % np.uint64(12)) | (codes // np.uint64(12) * np.uint64(41) << np.uint64(20)) | (codes << np.uint64(50))
    )
    return keys


def add(table: KeyTable, keys: Keys, first: int) -> list[int]:
    """Find or insert, new keys with rows from `first` on. Returns every key's row."""
    row, place = table.add(keys)
    new = np.flatnonzero(row == PROVISIONAL + np.arange(len(keys)))
    table.assign(place[new], (first + np.arange(len(new))).astype(np.int32))
    rows = {PROVISIONAL + int(i): first + j for j, i in enumerate(new)}
    return [rows.get(one, one) for one in row.tolist()]


@pytest.mark.parametrize("keys_of", [mixed, crowded])
@pytest.mark.parametrize("seed", range(4))
def test_a_table_is_a_dict(keys_of: Callable[[list[int] | range], Keys], seed: int) -> None:
    """Batches with repetitions, removals of half of what is there, look-ups of keys that were never there."""
    rng = np.random.default_rng(seed)
    table, model = KeyTable(), dict[int, int]()
    next_row = 0
    for _ in range(120):
        numbers = rng.integers(0, 4000, rng.integers(0, 400)).tolist()
        if rng.random() < 0.6:
            new = [number for number in dict.fromkeys(numbers) if number not in model]
            model |= {number: next_row + i for i, number in enumerate(new)}
            assert add(table, keys_of(numbers), next_row) == [model[number] for number in numbers]
            next_row += len(new)
        else:
            gone = list(dict.fromkeys(numbers))
            table.remove(keys_of(gone))
            for number in gone:
                model.pop(number, None)
        asked = rng.integers(0, 5000, 200).tolist()
        assert table.find(keys_of(asked)).tolist() == [model.get(number, EMPTY) for number in asked]
        assert [table.find_one(key) for key in keys_of(asked[:20]).tolist()] == [
            model.get(number, EMPTY) for number in asked[:20]
        ]
        assert len(table) == len(model)


@pytest.mark.parametrize("keys_of", [mixed, crowded])
@pytest.mark.parametrize("size", [1, 12, 13, 1000])
def test_a_batch_finds_its_own_keys(keys_of: Callable[[list[int] | range], Keys], size: int) -> None:
    """The second and third of equal keys in a batch are told that they equal the first."""
    keys = keys_of([*range(size), *range(size), 0])
    row, _ = KeyTable().add(keys)
    assert (row - PROVISIONAL).tolist() == [*range(size), *range(size), 0]


def test_keys_of_one_home_are_told_apart() -> None:
    """A dozen keys differ in their lowest bits or highest bits only, and each keeps its row."""
    keys = np.array([5 << 20, 5 << 20 | 1, 5 << 20 | 1 << 63, 6 << 20, (5 + 1024) << 20], np.uint64)
    table = KeyTable()
    assert add(table, keys, 100) == [100, 101, 102, 103, 104]
    assert table.find(keys).tolist() == [100, 101, 102, 103, 104]
    table.remove(keys[:1])
    assert table.find(keys).tolist() == [EMPTY, 101, 102, 103, 104]
    assert add(table, keys, 200) == [200, 101, 102, 103, 104]


def test_zero_is_a_key() -> None:
    """The arrays begin as zeros: no key is found that was not added."""
    table = KeyTable()
    zero = np.zeros(1, np.uint64)
    assert table.find(zero).tolist() == [EMPTY]
    assert add(table, zero, 0) == [0]
    assert table.find(zero).tolist() == [0]
    table.remove(zero)
    assert table.find(zero).tolist() == [EMPTY]


def test_rows_up_to_the_limit_are_kept() -> None:
    """2^30 - 1 is a row, not a mark."""
    table = KeyTable()
    keys = mixed(range(3))
    _, place = table.add(keys)
    table.assign(place, np.array([0, 2**30 - 1, 7], np.int32))
    assert table.find(keys).tolist() == [0, 2**30 - 1, 7]
    row, _ = table.add(keys)
    assert row.tolist() == [0, 2**30 - 1, 7]


def test_memory_follows_what_is_live_not_what_ever_was() -> None:
    """A thousand live keys of a million that came and went: removed places are given back."""
    table = KeyTable()
    for i in range(200):
        add(table, mixed(range(5000 * i, 5000 * i + 5000)), 0)
        table.remove(mixed(range(5000 * i, 5000 * i + 5000)))
    assert len(table) == 0
    assert table.nbytes <= 12 * 2**15


def test_growth_keeps_every_row() -> None:
    """One batch larger than the table, and one more that makes it grow again."""
    table = KeyTable()
    assert add(table, mixed(range(3000)), 0) == list(range(3000))
    assert add(table, mixed(range(2999, 50_000)), 3000) == list(range(2999, 50_000))
    assert table.find(mixed(range(50_000))).tolist() == list(range(50_000))
    assert 18 <= table.nbytes / len(table) <= 64


def test_nothing_may_be_asked_and_added() -> None:
    """Empty batches change nothing."""
    table = KeyTable()
    none = mixed([])
    row, place = table.add(none)
    assert (row.tolist(), place.tolist(), table.find(none).tolist(), len(table)) == ([], [], [], 0)
    table.remove(none)
    assert len(table) == 0
