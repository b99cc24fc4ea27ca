"""`python -m tests.label_agreement SOURCE ROOT`: the rules' labels beside those a source has, study by study.

    python -m tests.label_agreement iu-xray raw/iu_xray          coders who read the reports and listed what they name
    python -m tests.label_agreement mimic-cxr raw/phantom        what was drawn

Uncertain counts as present, as in training; an observation that the source leaves unknown is left out.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cogaze.observations import OBSERVATIONS
from data_prep.labels.rules import label_report
from data_prep.records import ImageRecord, Quarantine
from data_prep.sources import SOURCES


def agreement(records: Iterable[ImageRecord]) -> dict[str, Counter[str]]:
    """By observation how many studies are "both", "rules only", "source only" and "neither"."""
    found: dict[str, Counter[str]] = {name: Counter() for name in OBSERVATIONS}
    seen: set[str] = set()
    for record in records:
        if record.study_id in seen:
            continue
        seen.add(record.study_id)
        rules = label_report(record.findings, record.impression)
        for name in record.labels:
            theirs, ours = record.labels[name] in (1, -1), rules.get(name) in (1, -1)
            which = ("both" if ours else "source only") if theirs else ("rules only" if ours else "neither")
            found[name][which] += 1
    return found


def f1(counts: Counter[str]) -> float:
    """2 both / (2 both + rules only + source only); NaN where neither ever names the observation."""
    positives = 2 * counts["both"] + counts["rules only"] + counts["source only"]
    return 2 * counts["both"] / positives if positives else float("nan")


def main(source: str, root: str) -> None:
    found = agreement(SOURCES[source](Path(root), Quarantine()))
    print(f"{'':28}{'both':>7}{'rules only':>12}{'source only':>13}{'neither':>9}{'F1':>7}")
    for name, counts in {**found, "all": sum(found.values(), Counter())}.items():
        numbers = f"{counts['both']:7}{counts['rules only']:12}{counts['source only']:13}{counts['neither']:9}"
        print(f"{name:28}{numbers}{f1(counts):7.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
