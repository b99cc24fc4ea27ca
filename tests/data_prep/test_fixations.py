"""data_prep.fixations: what is kept of a reading's fixations."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from data_prep.fixations import Fixation, fixation_array

NAN = math.nan


def test_each_cause_is_dropped_and_counted():
    good = Fixation(0.5, 0.25, 1.0, 2.0, 0.04, 0.02)
    rows = [
        good,
        good,
        good._replace(x=NAN),
        good._replace(end=1.0),
        good._replace(start=3.0),
        good._replace(x=1.0199, start=-0.5),  # within half a degree (0.02) of the edge
        good._replace(x=1.0201),
        good._replace(y=-0.0101),
    ]
    dropped: Counter[str] = Counter()
    array = fixation_array(rows, dropped)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, [[1.0199, 0.25, -0.5, 2.0, 0.04, 0.02], [0.5, 0.25, 1, 2, 0.04, 0.02]], rtol=1e-6)
    assert dropped == {"repeated": 1, "lost position": 1, "no duration": 2, "off the image": 2}


def test_a_look_beside_the_zoomed_part_is_not_a_look_at_the_image():
    zoomed = Fixation(0.2, 0.5, 0.0, 1.0, 0.04, 0.04, shown=(0.5, 0.0, 1.0, 1.0))
    dropped: Counter[str] = Counter()
    assert fixation_array([zoomed], dropped).shape == (0, 6)
    assert dropped == {"off the image": 1}
    assert len(fixation_array([zoomed._replace(x=0.6), zoomed._replace(shown=(NAN,) * 4)], dropped)) == 2


def test_odd_resolutions_become_the_median():
    base = Fixation(0.5, 0.5, 0.0, 1.0, 0.03, 0.05)
    rows = [base, base._replace(start=0.1, sigma_x=0.05)]
    rows += [base._replace(start=0.2 + i, end=9, sigma_x=bad) for i, bad in enumerate([0.0, NAN, -0.1, 40.0])]
    np.testing.assert_allclose(fixation_array(rows, Counter())[:, 4], [0.03, 0.05] + [0.04] * 4, rtol=1e-6)
    dropped: Counter[str] = Counter()
    assert len(fixation_array([base._replace(sigma_y=0.0)], dropped)) == 0
    assert dropped == {"no angular resolution": 1}
