"""Generated reports against the radiologists' own, from files: no model of ours needs to have written them.

    pairs (files or shards -> texts side by side) -> words | findings | structured -> one plain dict

What cannot be computed is null with its reason under "undefined", never a number that looks like a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cogaze.evaluate.reports import findings, structured, words
from cogaze.evaluate.reports.pairs import Pairs

Labels = Mapping[str, int | None]
Labeller = Callable[[Sequence[str]], Sequence[Labels]]


def evaluate(
    pairs: Pairs, *, labeller: Labeller | None = None, labeller_name: str | None = None, sections: bool = False
) -> dict[str, Any]:
    """All metrics of `pairs`: counts, words, with a labeller findings, with `sections` structured; plain numbers.

    labeller: texts -> labels by CheXbert name (1, 0, -1, None), called once for the generated texts and once for the
    references; labeller_name is recorded. `per_report` holds lists in the order of `pairs`, for a table.
    """
    results: dict[str, Any] = {"counts": pairs.counts()}
    said, true = ([words.tokens(text) for text in texts] for texts in (pairs.generated, pairs.references))
    table, per_report, undefined = words.score(said, true)
    results["words"] = table
    if labeller is not None:
        found, why = findings.score(labeller(pairs.generated), labeller(pairs.references))
        results["findings"] = {"labeller": labeller_name, **found}
        undefined |= why
    if sections:
        results["structured"] = structured.score(pairs.generated, pairs.references)
    return {**results, "undefined": undefined, "per_report": per_report}
