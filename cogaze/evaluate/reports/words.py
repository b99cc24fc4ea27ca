"""BLEU, ROUGE-L, CIDEr and METEOR, as the papers on report generation compute them: with pycocoevalcap.

Texts are split at blanks after every full stop got one before it; nothing is lower-cased. BLEU and CIDEr are of the
whole corpus, ROUGE-L (beta 1.2) is a mean over reports, METEOR 1.5 is the aggregate of its own program, which runs in
Java. Needs the extra `metrics`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress

from cogaze.evaluate import EvaluationError

Scores = dict[str, float | None]
ORDERS = 4  # of the n-grams of BLEU and CIDEr


def tokens(text: str) -> str:
    """The text with its words set apart by one blank each: "Clear.  No effusion." -> "Clear . No effusion ."."""
    return " ".join(text.replace(".", " .").split())


def score(said: Sequence[str], true: Sequence[str]) -> tuple[Scores, dict[str, list[float]], dict[str, str]]:
    """Scores of n generated texts against n references, none of which is blank, words set apart as by `tokens`.

    Returns the corpus scores bleu_1..4, rouge_l, cider, meteor (None where undefined), the scores of each report in
    the same order, and why a score is None. Raises EvaluationError: nothing to compare, the extra is not installed.
    """
    if not true:
        raise EvaluationError("there is no pair of a generated report and its reference to compare")
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider_scorer import CiderScorer
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise EvaluationError(f"scoring reports needs pycocoevalcap: pip install 'cogaze[metrics]' ({error})") from None
    bleu, cider, rouge = BleuScorer(n=ORDERS), CiderScorer(n=ORDERS), Rouge()
    for one, other in zip(said, true, strict=True):
        bleu += (one, [other])
        cider += (one, [other])
    corpus, each = bleu.compute_score(option="closest")
    scores: Scores = {f"bleu_{n}": float(corpus[n - 1]) for n in range(1, ORDERS + 1)}
    per_report = {f"bleu_{n}": [float(value) for value in each[n - 1]] for n in range(1, ORDERS + 1)}
    per_report["rouge_l"] = [float(rouge.calc_score([one], [other])) for one, other in zip(said, true, strict=True)]
    scores["rouge_l"] = sum(per_report["rouge_l"]) / len(true)
    mean, values = cider.compute_score()
    scores["cider"], per_report["cider"] = float(mean), [float(value) for value in values]
    undefined = {}
    longest = max(len(text.split()) for text in (*said, *true))
    for n in range(longest + 1, ORDERS + 1):
        scores[f"bleu_{n}"] = None
        undefined[f"bleu_{n}"] = f"no text has {n} words"
    if len(set(true)) < 2:  # every word is in every reference: its weight, log(references / those with it), is 0
        scores["cider"] = None
        undefined["cider"] = "its word weights come from the references, and there are no two different ones"
    try:
        scores["meteor"], per_report["meteor"] = _meteor(said, true)
    except MeteorMissing as error:
        scores["meteor"], undefined["meteor"] = None, str(error)
    return scores, per_report, undefined


class MeteorMissing(RuntimeError):
    """METEOR cannot be computed here; the message says what to install."""


def _meteor(said: Sequence[str], true: Sequence[str]) -> tuple[float, list[float]]:
    """The aggregate and each report's METEOR. Raises MeteorMissing."""
    if shutil.which("java") is None:
        raise MeteorMissing("no java on PATH (Debian: apt install default-jre-headless)")
    from pycocoevalcap.meteor.meteor import Meteor

    def line(text: str) -> list[str]:  # of the program's protocol, whose fields are parted by |||
        return [" ".join(text.replace("|||", " ").split())]

    program = Meteor()
    try:
        mean, each = program.compute_score(
            {i: line(text) for i, text in enumerate(true)}, {i: line(text) for i, text in enumerate(said)}
        )
    except (OSError, ValueError) as error:  # it ended: no answer, or none that is a number
        program.lock.release()  # or its destructor waits for ever,
        with suppress(OSError):  # and would complain of the broken pipe
            program.meteor_p.stdin.close()
        raise MeteorMissing(
            f"METEOR's Java program failed ({type(error).__name__}); does `java -version` run?"
        ) from None
    return float(mean), [float(value) for value in each]
