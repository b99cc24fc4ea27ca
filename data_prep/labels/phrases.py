"""The phrases of phrases.yaml, compiled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import yaml

DEVICES = "Support Devices"
FURTHER = "further"  # abnormalities that are none of the fourteen observations, and forbid No Finding


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<![\w-])(?:{p})(?![\w])" for p in patterns))


PHRASES: dict[str, Any] = yaml.safe_load((files("data_prep.labels") / "phrases.yaml").read_text(encoding="utf-8"))
MENTIONS, NORMAL, IGNORED = (
    {name: _any_of(patterns) for name, patterns in PHRASES[kind].items()} for kind in ("mentions", "normal", "ignored")
)
MENTIONS[FURTHER] = _any_of(PHRASES["further"])

# An item of a list that begins with such adjectives and has a noun after them: ", moderate left effusion".
_NEW = "|".join(PHRASES["new_in_a_list"])
_MAYBE_NEW = "|".join((*PHRASES["new_in_a_list"], *PHRASES["perhaps_new_in_a_list"]))
NEW_ITEM = re.compile(rf"(?:(?:and|now|also) )*((?:(?:{_MAYBE_NEW}) )+)(?!(?:or|and|nor|{_MAYBE_NEW})\b)\w")
SURELY_NEW = re.compile(rf"\b(?:{_NEW})\b")
CUES = {kind: _any_of(patterns) for kind, patterns in PHRASES["cues"].items()}
CUES["ends_reach"] = _any_of([*PHRASES["cues"]["ends_reach"], rf"with(?= (?:an? )?(?:{_NEW})\b)"])
