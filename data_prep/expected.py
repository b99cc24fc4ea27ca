"""What a source should hold, as its authors published it, beside what was read of it.

A reader counts what it reads with `Quarantine.note`, in the words of PUBLISHED; `compare` puts both side by side. It is
the test that a download is whole: on the real collection every row without slack must show a difference of zero. Most
rows count what the tables say, "image files" the files that were found for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """A published number. Where ours rests on another rule it comes close, but may be off by `slack`."""

    name: str
    number: int
    slack: int = 0


# MIMIC-CXR-JPG 2.1.0: sizes, splits and view positions as its documentation and tables have them. Frontal, lateral and
# other were told apart with DICOM elements that the tables do not hold (slack: 5 % of the split's images, as many as
# have no view position), the sections with another sectioner. The radiologist's studies are a second-hand count.
MIMIC_CXR = (
    Published("images", 377_110),
    Published("image files", 377_110),
    Published("studies", 227_835),
    Published("patients", 65_379),
    Published("train images", 368_960),
    Published("train studies", 222_758),
    Published("train patients", 64_586),
    Published("validate images", 2_991),
    Published("validate studies", 1_808),
    Published("validate patients", 500),
    Published("test images", 5_159),
    Published("test studies", 3_269),
    Published("test patients", 293),
    Published("train frontal", 248_020, 18_448),
    Published("train lateral", 120_795, 18_448),
    Published("train other", 145, 18_448),
    Published("validate frontal", 2_041, 150),
    Published("validate lateral", 949, 150),
    Published("validate other", 1, 150),
    Published("test frontal", 3_653, 258),
    Published("test lateral", 1_502, 258),
    Published("test other", 4, 258),
    Published("view AP", 147_173),
    Published("view PA", 96_161),
    Published("view LATERAL", 82_853),
    Published("view LL", 35_133),
    Published("view blank", 15_769),
    Published("view PA LLD", 4),
    Published("view LAO", 3),
    Published("view RAO", 3),
    Published("view AP AXIAL", 2),
    Published("view AP LLD", 2),
    Published("view XTABLE LATERAL", 2),
    Published("view AP RLD", 2),
    Published("view SWIMMERS", 1),
    Published("view PA RLD", 1),
    Published("view LPO", 1),
    Published("studies in the chexpert table", 227_827),
    Published("studies in the negbio table", 227_827),
    Published("studies in the radiologist table", 687, 34),
    Published("reports with impression", 189_561, 9_478),
    Published("reports with findings only", 27_684, 3_000),
    Published("reports with last paragraph only", 10_514, 3_000),
)
SUBSET = 0.95  # of the published images: fewer in the tables, and somebody cut them on purpose
PUBLISHED: dict[str, tuple[Published, ...]] = {"mimic_cxr": MIMIC_CXR}


def compare(source: str, read: Mapping[str, int]) -> dict[str, Any] | None:
    """Published and read counts of a source side by side (JSON-able); None where nothing is published or was counted.

    Rows are {"name", "read", "published", "difference", "slack", "fits"}. A part of a collection is told by the number
    of images in its tables ("subset": True): its differences mean nothing, but its files should be there. Label tables
    and reports that were not read are left out.
    """
    published = PUBLISHED.get(source, ())
    if not published or not read.get("images"):
        return None
    rows, reported = [], any(name.startswith("reports ") for name in read)
    for row in published:
        number = read.get(row.name, 0)
        if row.name.startswith("studies in the ") and row.name not in read:
            continue
        if row.name.startswith("reports ") and not reported:
            continue
        difference = number - row.number
        fits = abs(difference) <= row.slack
        rows.append({"name": row.name, "read": number, "published": row.number, "difference": difference,
                     "slack": row.slack, "fits": fits})  # fmt: skip
    names = {row.name for row in published}
    unpublished = {
        name: number for name, number in sorted(read.items()) if name.startswith("view ") and name not in names
    }
    return {
        "source": source,
        "subset": read["images"] < SUBSET * published[0].number,
        "fits": all(row["fits"] for row in rows) and not unpublished,
        "rows": rows,
        "unpublished": unpublished,
    }


def lines(comparison: Mapping[str, Any] | None) -> Iterator[str]:
    """The comparison as text, a line a row and one that sums up; of a subset a single line, of None nothing."""
    if comparison is None:
        return
    whole, images = comparison["rows"][0]["published"], comparison["rows"][0]["read"]
    if comparison["subset"]:
        yield f"{comparison['source']}: a subset, {images:,} of the {whole:,} published images ({images / whole:.1%})"
        files = next((row["read"] for row in comparison["rows"] if row["name"] == "image files"), images)
        if files != images:
            yield f"  {images - files:,} of these images have no file: an incomplete download"
        return
    yield f"{'counted in the source':<36}{'read':>9}{'published':>15}{'difference':>12}"
    for row in comparison["rows"]:
        mark = "" if row["fits"] else "  <- differs"
        about = "about " if row["slack"] else ""
        published = f"{about}{row['published']:,}"
        yield f"  {row['name']:<34}{row['read']:>9,}{published:>15}{row['difference']:>+12,}{mark}"
    for name, number in comparison["unpublished"].items():
        yield f"  {name:<34}{number:>9,}{'none':>15}{number:>+12,}  <- differs"
    if comparison["fits"]:
        yield "every count is as published (those marked `about` within what another rule can move)"
    else:
        yield "some counts are not as published: an incomplete or another release, or rows set aside (quarantine.jsonl)"
