"""One line of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` says what to do, and is empty where all is well."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
