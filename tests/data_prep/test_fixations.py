"""data_prep.fixations: what is kept of a reading's fixations."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fixations import LONGEST, Fixation, fixation_array, in_seconds, report_counts
from data_prep.records import Quarantine

NAN = math.nan


def test_each_cause_is_dropped_and_counted():
    good = Fixation(0.5, 0.25, 1.0, 2.0, 0.04, 0.02)
    rows = [
        good,
        good,
        good._replace(x=NAN),
        good._replace(end=1.0),  # of zero seconds
        good._replace(start=3.0),  # ends before it starts
        good._replace(start=NAN),
        good._replace(x=1.0199, start=-0.5),  # within half a degree (0.02) of the edge
        good._replace(x=1.0201),
        good._replace(y=-0.0101),
    ]
    dropped: Counter[str] = Counter()
    array = fixation_array(rows, dropped)
    assert array.dtype == np.float32
    # the one that began before the recording ends where the next begins
    np.testing.assert_allclose(array, [[1.0199, 0.25, -0.5, 1.0, 0.04, 0.02], [0.5, 0.25, 1, 2, 0.04, 0.02]], rtol=1e-6)
    assert dropped == {
        "fixations dropped: repeated": 1,
        "fixations dropped: lost position": 1,
        "fixations dropped: no duration": 3,
        "fixations dropped: off the image": 2,
        "fixations mended: overlap cut": 1,
    }


def test_a_look_beside_the_zoomed_part_is_not_a_look_at_the_image():
    zoomed = Fixation(0.2, 0.5, 0.0, 1.0, 0.04, 0.04, shown=(0.5, 0.0, 1.0, 1.0))
    dropped: Counter[str] = Counter()
    assert fixation_array([zoomed], dropped).shape == (0, 6)
    assert dropped == {"fixations dropped: off the image": 1}
    inside = [zoomed._replace(x=0.6), zoomed._replace(start=1.0, end=2.0, shown=(NAN,) * 4)]
    assert len(fixation_array(inside, dropped)) == 2
    assert dropped.total() == 1


def test_odd_resolutions_become_the_median():
    base = Fixation(0.5, 0.5, 0.0, 1.0, 0.03, 0.05)
    rows = [base, base._replace(start=0.1, sigma_x=0.05)]
    rows += [base._replace(start=0.2 + i, end=9, sigma_x=bad) for i, bad in enumerate([0.0, NAN, -0.1, 40.0])]
    mended: Counter[str] = Counter()
    np.testing.assert_allclose(fixation_array(rows, mended)[:, 4], [0.03, 0.05] + [0.04] * 4, rtol=1e-6)
    assert mended["fixations mended: angular resolution"] == 4
    dropped: Counter[str] = Counter()
    assert len(fixation_array([base._replace(sigma_y=0.0)], dropped)) == 0
    assert dropped == {"fixations dropped: no angular resolution": 1}


def test_of_two_at_a_time_the_earlier_ends_where_the_later_begins():
    def at(x: float, start: float, end: float) -> Fixation:
        return Fixation(x, 0.5, start, end, 0.04, 0.04)

    counts: Counter[str] = Counter()
    rows = [at(0.4, 4.0, 9.0), at(0.1, 0.0, 2.0), at(0.2, 1.5, 3.0), at(0.3, 1.5, 3.5), at(0.5, 6.0, 7.0)]
    rows += [at(0.6, 7.0 - 0.001, 8.0)]  # a millisecond is rounding
    got = [(round(float(x), 1), start, end) for x, _, start, end, *_ in fixation_array(rows, counts)]
    assert [row[:2] for row in got] == [(0.1, 0.0), (0.3, 1.5), (0.4, 4.0), (0.5, 6.0), (0.6, np.float32(6.999))]
    assert [row[2] for row in got] == [1.5, 3.5, 6.0, np.float32(6.999), 8.0]
    # 0.1 and 0.4 were cut; of 0.2 nothing is left, as 0.3 begins with it
    assert counts == {
        "fixations mended: overlap cut": 2,
        "fixations dropped: overlapped by another": 1,
        "fixations mended: milliseconds after another one inside left out": 1000,  # 0.4 claims 8 to 9, after 0.6
    }


def test_what_a_fixation_claims_after_another_inside_it_is_left_out_and_counted():
    def at(x: float, start: float, end: float) -> Fixation:
        return Fixation(x, 0.5, start, end, 0.04, 0.04)

    def kept(*rows: Fixation) -> list[tuple[float, float]]:
        counts.clear()
        return [(float(start), float(end)) for _, _, start, end, *_ in fixation_array(rows, counts)]

    cut = "fixations mended: overlap cut"
    lost = "fixations mended: milliseconds after another one inside left out"
    counts: Counter[str] = Counter()
    assert kept(at(0.1, 0.0, 10.0), at(0.2, 2.0, 3.0)) == [(0.0, 2.0), (2.0, 3.0)]
    assert counts == {cut: 1, lost: 7000}
    # two inside, the second after a pause: 3 to 4 and 5 to 10 belong to nobody
    assert kept(at(0.1, 0.0, 10.0), at(0.2, 2.0, 3.0), at(0.3, 4.0, 5.0)) == [(0.0, 2.0), (2.0, 3.0), (4.0, 5.0)]
    assert counts == {cut: 1, lost: 6000}
    # what others take over is not lost
    assert kept(at(0.1, 0.0, 2.0), at(0.2, 1.5, 3.0), at(0.3, 1.5, 3.5)) == [(0.0, 1.5), (1.5, 3.5)]
    assert lost not in counts
    assert kept(at(0.1, 0.0, 1.001), at(0.2, 0.5, 1.0)) == [(0.0, 0.5), (0.5, 1.0)]  # rounding
    assert counts == {cut: 1}


def test_longer_than_any_fixation():
    """30 s is kept, more is dropped; where most are longer the reading's times are in other units."""
    base = Fixation(0.5, 0.5, 0.0, 0.3, 0.04, 0.04)
    rows = [base, base._replace(start=1.0, end=31.0), base._replace(start=40.0, end=70.5)]
    rows.append(base._replace(start=100.0, end=1e9))
    counts: Counter[str] = Counter()
    np.testing.assert_allclose(fixation_array(rows, counts)[:, 2:4], [[0, 0.3], [1, 31]], rtol=1e-6)
    assert counts == {"fixations dropped: longer than 30 s": 2}
    assert in_seconds(rows)  # half of them
    assert not in_seconds(rows[1:])
    milliseconds = [base._replace(start=300.0 * i, end=300.0 * i + 250) for i in range(9)]
    assert not in_seconds([base, base._replace(end=NAN), *milliseconds])
    assert in_seconds([])
    assert in_seconds([base._replace(end=NAN), base._replace(end=-1e9)])


def test_what_was_counted_stands_in_the_quarantine_once_a_cause():
    quarantine = Quarantine()
    report_counts(Counter({"fixations dropped: repeated": 3, "fixations mended: overlap cut": 1}), "egd", quarantine)
    assert [(row["source"], row["reason"], row["detail"]) for row in quarantine.rows] == [
        ("egd", "fixations dropped: repeated", "3 in all readings together"),
        ("egd", "fixations mended: overlap cut", "1 in all readings together"),
    ]
    assert all(row["kept"] for row in quarantine.rows)  # the readings are
    assert quarantine.counts() == {"fixations dropped: repeated": 3, "fixations mended: overlap cut": 1}


ANY = st.one_of(st.floats(-2, 3, width=32), st.sampled_from([NAN, math.inf, -math.inf, 0.0, 1e30]))


@given(st.lists(st.builds(Fixation, ANY, ANY, ANY, ANY, ANY, ANY, st.tuples(ANY, ANY, ANY, ANY)), max_size=12))
def test_what_is_kept_is_sound_and_the_rest_is_counted(rows):
    counts: Counter[str] = Counter()
    array = fixation_array(rows, counts)
    assert np.isfinite(array).all()
    assert (array[:, 3] >= array[:, 2]).all()
    assert (array[:, 3] - array[:, 2] <= LONGEST).all()
    assert (array[1:, 2] >= array[:-1, 3]).all()  # one look at a time, in their order
    assert ((array[:, 4:] > 0) & (array[:, 4:] <= 1)).all()
    assert len(array) + sum(n for cause, n in counts.items() if "dropped" in cause) == len(rows)
