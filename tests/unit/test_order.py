"""The order of samples: a permutation in every epoch, O(1) from any position."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_adan.training.order import EpochOrder


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 700), st.integers(-(2**40), 2**70), st.integers(0, 50))
def test_every_epoch_holds_every_sample_once(num_samples: int, seed: int, epoch: int) -> None:
    begin = epoch * num_samples
    epochs, indices = EpochOrder(num_samples, seed).at(np.arange(begin, begin + num_samples))
    assert set(epochs) == {epoch}
    assert sorted(indices) == list(range(num_samples))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**12), st.integers(0, 2**31), st.integers(0, 10**15), st.integers(1, 40))
def test_a_position_is_the_same_alone_and_in_company(num_samples: int, seed: int, begin: int, count: int) -> None:
    order = EpochOrder(num_samples, seed)
    epochs, indices = order.at(np.arange(begin, begin + count))
    alone = [order.at(np.array([begin + place])) for place in range(count)]
    assert [int(epoch[0]) for epoch, _ in alone] == epochs.tolist()
    assert [int(index[0]) for _, index in alone] == indices.tolist()
    assert ((indices >= 0) & (indices < num_samples)).all()


def test_epochs_and_seeds_are_ordered_differently() -> None:
    orders = [EpochOrder(1000, seed).at(np.arange(3000))[1].reshape(3, 1000) for seed in (0, 1)]
    rows = np.concatenate(orders)
    for one in range(len(rows)):
        for other in range(one):
            # Two random permutations agree at one place on average; ten or more has a probability of 1e-7.
            assert (rows[one] == rows[other]).sum() < 10


def test_places_are_uniform() -> None:
    """Where sample 0 of 64 stands, and what follows what, over 6,400 epochs: chi-square within five sigma."""
    num_samples, num_epochs = 64, 6400
    indices = EpochOrder(num_samples, 7).at(np.arange(num_samples * num_epochs))[1].reshape(num_epochs, num_samples)
    place_of_zero = (indices == 0).argmax(axis=1)
    steps = (indices[:, 1:] - indices[:, :-1]) % num_samples
    for values, cells in ((place_of_zero, num_samples), (steps.reshape(-1) - 1, num_samples - 1)):
        counts = np.bincount(values, minlength=cells)
        expected = len(values) / cells
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))


def test_neighbours_are_torn_apart() -> None:
    """No trace of the data set's own order: its correlation with the place is that of chance (5 sigma)."""
    indices = EpochOrder(100_003, 3).at(np.arange(100_003))[1]
    assert abs(np.corrcoef(indices, np.arange(100_003))[0, 1]) < 5 / np.sqrt(100_003)
    assert abs(np.corrcoef(indices[1:], indices[:-1])[0, 1]) < 5 / np.sqrt(100_003)


def test_a_late_position_costs_what_an_early_one_costs() -> None:
    """Measured: 1 ms for 4,096 positions of a terabyte's samples, wherever they stand."""
    order = EpochOrder(10**9, 0)

    def seconds(begin: int) -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            order.at(np.arange(begin, begin + 4096))
            times.append(time.perf_counter() - started)
        return min(times)

    assert seconds(10**15) < 5 * seconds(0) + 0.01


def test_no_samples_no_order() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        EpochOrder(0, 0)
