"""The sources that `cogaze data build --source NAME` knows: name -> the function that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from data_prep import iu_xray, mimic_cxr, mimic_eye, table
from data_prep.annotations import read as read_annotations  # `annotations` is the import above
from data_prep.records import ImageRecord

# Each is `read(root, quarantine, **options)`; the options are in its docstring.
SOURCES: dict[str, Callable[..., Iterator[ImageRecord]]] = {
    "mimic-cxr": mimic_cxr.read,
    "mimic-eye": mimic_eye.read,
    "cogaze-annotations": read_annotations,
    "iu-xray": iu_xray.read,
    "table": table.read,
}
