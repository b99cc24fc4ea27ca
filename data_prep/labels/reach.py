"""How far the words reach that deny an observation or leave it open.

Forwards ("no", "possible") to the end of the clause, the next such word, or what ends such a reach; backwards ("has
resolved", "cannot be excluded") to the beginning of the clause, or to a comma that does not belong to a list. Time
grows with the length of the clause alone.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from data_prep.labels.phrases import CUES, DEVICES, NEW_ITEM, SURELY_NEW

Span = tuple[int, int]
Place = tuple[int, int, str]  # where a mention begins and ends, and of what

_PLURAL = ("are ", "were ", "have ")  # "consolidation, effusion, pneumothorax are not seen"
_VERB = (*_PLURAL, "is ", "was ", "has ", "had ", "can", "could ", "should ", "would ")
_JOINED, _JOINED_BY_OR = re.compile(r"\b(?:or|nor|and)\b"), re.compile(r"\b(?:or|nor)\b")
_DENIES_ANEW = re.compile(r"(?:and |with )?(?:no|without|not)\b")


def spans(kind: str, clause: str) -> list[Span]:
    """Where the cues of a kind stand (phrases.yaml), in order."""
    return [match.span() for match in CUES[kind].finditer(clause)]


def values(clause: str, places: list[Place]) -> list[int]:
    """1, 0 or -1 of each mention (`places`, in order), by the cues around it and inside it."""
    opened, removed = spans("open_after", clause), spans("removed_after", clause)
    denied = [span for span in spans("denied_after", clause) if not _inside(span, opened)]
    states = {False: _forwards(clause, places, opened, denied), True: []}
    if any(name == DEVICES for *_, name in places):
        states[True] = _forwards(clause, places, opened, sorted(denied + removed), devices=True)
    is_open, is_denied, is_removed = (_backwards(clause, places, cues) for cues in (opened, denied, removed))
    found = []
    whole = CUES["part_of_device"].search(clause) is None
    for i, (_, _, name) in enumerate(places):
        device = name == DEVICES
        state = states[device][i]
        if is_open[i]:
            found.append(-1)
        elif (is_denied[i] and (whole or not device)) or (device and is_removed[i]):
            found.append(0)
        else:
            found.append(1 if state is None else state)
    return found


def _inside(span: Span, others: list[Span]) -> bool:
    """Whether one of `others` (in order, disjoint) holds the span."""
    i = bisect_right(others, span[0], key=lambda other: other[0]) - 1
    return i >= 0 and span[1] <= others[i][1]


def _forwards(
    clause: str, places: list[Place], opened_after: list[Span], denied_after: list[Span], *, devices: bool = False
) -> list[int | None]:
    """What the words before each mention make of it: 0 denied, -1 left open, None nothing.

    `opened_after` and `denied_after` are cues that speak of what stands before them; the "not" in one of these denies
    nothing after it, except at the beginning ("No longer seen is the effusion").
    """
    opened = spans("open_before", clause)
    denied = spans("denied_before", clause) + (spans("removed_before", clause) if devices else [])
    first = places[0][0]
    cues = [(end, -1, start) for start, end in opened]
    for start, end in denied:
        spoken = start > first and _inside((start, end), denied_after)
        if not (spoken or _inside((start, end), opened) or _inside((start, end), opened_after)):
            cues.append((end, 0, start))
    cues += [(start, 1, start) for start, _ in spans("ends_reach", clause)]
    cues += [(start, 1, start) for start in _new_items(clause)]
    if devices:
        cues += [(match.start(), 2, match.start()) for match in re.finditer(r", (?!or\b|nor\b|and\b)", clause)]
    cues.sort()
    starts_of_devices = [start for start, _, name in places if name == DEVICES]
    found: list[int | None] = []
    state: int | None = None
    since = 0
    k = 0
    for _, end, _ in places:
        while k < len(cues) and cues[k][0] <= end:
            at, what, start = cues[k]
            k += 1
            if what == 2:  # a list of denied findings does not go on with devices
                if bisect_left(starts_of_devices, at) == bisect_left(starts_of_devices, since):
                    state = None
            elif what == 1:
                state = None
            elif not (what == -1 and state == 0 and CUES["deniable"].match(clause, start)):
                state, since = what, at
        found.append(state)
    return found


def _new_items(clause: str) -> list[int]:
    """Where a list ends a denial: before ", moderate left effusion", unless "or" joins it to what was denied.

    Adjectives that are denied as well as asserted ("large", "new") end it only where nothing is joined after them.
    """
    offset = len(clause)
    found: list[int] = []
    joined = by_or = at_its_end = False  # among the items after this one: any conjunction, "or", ", or"
    for item in reversed(clause.split(", ")):
        offset -= len(item)
        if _DENIES_ANEW.match(item):
            joined = by_or = at_its_end = False
        elif offset and (new := NEW_ITEM.match(item)):
            own = _JOINED.search(item, new.end()), _JOINED_BY_OR.search(item)
            sure = SURELY_NEW.search(new[1]) is not None
            if not (at_its_end or own[1]) if sure else not (joined or by_or or own[0] or own[1]):
                found.append(offset)
                joined = by_or = at_its_end = False
                offset -= 2
                continue
        by_or |= _JOINED_BY_OR.search(item) is not None
        joined |= _JOINED.search(item) is not None
        at_its_end |= _JOINED_BY_OR.match(item) is not None
        offset -= 2
    return found


def _backwards(clause: str, places: list[Place], cues: list[Span]) -> list[bool]:
    """Whether the next cue that stands behind a mention speaks of it."""
    if not cues:
        return [False] * len(places)
    starts = [start for start, *_ in places]
    commas = [match.start() for match in re.finditer(", ", clause)]
    joins = [match.start() for match in _JOINED.finditer(clause)]
    withs = [match.start() for match in re.finditer(r"\bwith\b", clause)]
    reach = []  # of each cue, how far back it reaches
    for start, _ in cues:
        last = bisect_left(starts, start) - 1
        if last < 0:
            reach.append(start)
            continue
        bound = 0
        comma = bisect_left(commas, starts[last]) - 1
        if comma >= 0 and not clause.startswith(_PLURAL, start):
            join = bisect_left(joins, commas[comma])
            if not (join < len(joins) and joins[join] < start):
                bound = commas[comma]
        if not clause.startswith(_VERB, start) and (near := bisect_left(withs, starts[last]) - 1) >= 0:
            bound = max(bound, withs[near])
        reach.append(bound)
    found = []
    for place in starts:
        i = bisect_left(cues, (place, 0))
        found.append(i < len(cues) and reach[i] <= place)
    return found
