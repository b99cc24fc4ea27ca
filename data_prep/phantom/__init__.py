"""Phantom data: drawn chest radiographs with reports, context and gaze, in the file layouts of the true data sets.

    plan (who, what, which views) -> film (pixels, boxes) -> report, gaze -> mimic_files, reflacx_files, egd_files

They serve to run and to test the whole pipeline where no credentialed data may be; they are no substitute for real
data. Same seed, same bytes.
"""

from data_prep.phantom.mark import MARK
from data_prep.phantom.writer import TRUTH, PhantomError, write

__all__ = ["MARK", "TRUTH", "PhantomError", "write"]
