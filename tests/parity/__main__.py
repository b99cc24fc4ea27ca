"""`python -m tests.parity FILE`: compare our code with the numbers in FILE; exit 0 only if all of them agree."""

from __future__ import annotations

import sys

import torch

from . import model, units
from .report import Report


def main(path: str) -> int:
    golden = torch.load(path, weights_only=True)
    report = Report()
    model.compare(golden, report)
    units.compare(golden, report)
    print(report.table())
    return 0 if report.good else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.parity FILE")
    sys.exit(main(sys.argv[1]))
