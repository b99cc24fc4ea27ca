"""What a comparison found: one line a quantity, with its relative error and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LIMIT = 1e-5
SPIKY = 1e-2  # the trajectory at lr 1e-3, whose steps are far beyond where the loss is smooth


@dataclass
class Line:
    name: str
    error: float
    limit: float
    note: str = ""

    @property
    def good(self) -> bool:
        return self.error <= self.limit  # False for NaN


@dataclass
class Report:
    lines: list[Line] = field(default_factory=list)

    def add(self, name: str, got: Any, want: Any, floor: float = 0.0, limit: float = LIMIT, note: str = "") -> None:
        """‖got - want‖ / max(‖want‖, floor), in float64; a wrong shape is an infinite error."""
        self.lines.append(Line(name, relative(got, want, floor), limit, note))

    def add_all(
        self,
        name: str,
        got: Mapping[str, Any],
        want: Mapping[str, Any],
        limit: float = LIMIT,
        floors: Mapping[str, float] | None = None,
    ) -> None:
        """Every tensor of two mappings (worst one shown), and all of them together.

        A tensor is measured against its own norm, at least 1e-6 of the norm of all and at least its entry in `floors`.
        A key's bias is measured against the norm of all: it shifts every score of a softmax alike, so its gradient is
        zero, and what either side has there (1e-9 of the whole) is rounding.
        """
        if got.keys() != want.keys():
            odd = sorted(got.keys() ^ want.keys())
            self.lines.append(Line(f"{name}: names", math.inf, limit, f"{len(odd)} on one side only, first {odd[0]}"))
        names = sorted(got.keys() & want.keys())
        whole = math.sqrt(sum(double(want[n]).square().sum().item() for n in names))
        floor = {n: max(whole * (1.0 if n.endswith(".key.bias") else 1e-6), (floors or {}).get(n, 0.0)) for n in names}
        errors = {n: relative(got[n], want[n], floor[n]) for n in names}
        worst = max(errors, key=lambda n: errors[n] if errors[n] == errors[n] else math.inf, default="")
        self.lines.append(Line(f"{name}: worst of {len(names)}", errors.get(worst, math.inf), limit, worst))
        off = math.sqrt(sum((double(got[n]) - double(want[n])).square().sum().item() for n in names))
        self.lines.append(Line(f"{name}: all", off / whole if whole else math.inf, limit))

    @property
    def good(self) -> bool:
        return bool(self.lines) and all(line.good for line in self.lines)

    def table(self) -> str:
        width = max(len(line.name) for line in self.lines)
        rows = [
            f"{x.name:<{width}}  {x.error:9.2e}  <= {x.limit:.0e}  {'ok  ' if x.good else 'FAIL'}  {x.note}".rstrip()
            for x in self.lines
        ]
        worst = max((line.error for line in self.lines if line.limit == LIMIT), default=math.nan)
        failed = sum(not line.good for line in self.lines)
        verdict = f"all {len(rows)} quantities agree" if not failed else f"{failed} of {len(rows)} quantities differ"
        return "\n".join([*rows, "", f"{verdict}; largest relative error {worst:.1e} (spiky trajectory aside)"])


def double(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().to(torch.float64)


def relative(got: Any, want: Any, floor: float = 0.0) -> float:
    a, b = double(got), double(want)
    if a.shape != b.shape:
        return math.inf
    off, size = (a - b).norm().item(), max(b.norm().item(), floor)
    return off / size if size else (0.0 if off == 0 else math.inf)
