"""Texts to token ids: the prompts around report, context and transcript, and the vocabulary they are written in.

    report      [CLS] [FINDINGS] text
    context     [CLS] [INDICATION] indication [SEP] [HISTORY] history
    transcript  [CLS] [TRANSCRIPT] text

The blanks in these lines separate, unless the tokenizer is told that they are text as well (`text.spaces`): a
byte-level vocabulary such as GPT-2's has tokens for them, and for words with a blank before. The setting is kept with
the tokenizer, so that a saved folder encodes as it did in training.

The markers are put in as ids. What stands in a report is always plain text, also where it spells a marker: somebody's
"[SEP]" becomes brackets and letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from cogaze.data.shards import ShardSet

FINDINGS, TRANSCRIPT, INDICATION, HISTORY = "[FINDINGS]", "[TRANSCRIPT]", "[INDICATION]", "[HISTORY]"
ROLE_TOKENS: tuple[str, ...] = (FINDINGS, TRANSCRIPT, INDICATION, HISTORY)
SPACES = "cogaze_spaces"  # name of the setting in tokenizer_config.json
SPECIAL_TOKENS: dict[str, str] = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded or trained; the message says which and what to do."""


# ------------------------------------------------------------------------------------------------ vocabulary
def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A lower-case WordPiece vocabulary of at most `vocab_size` tokens, markers included; save with `save_pretrained`.

    The same texts in any order give the same vocabulary. Raises TokenizerError where there is no text, or where
    `vocab_size` does not hold the markers and a few letters.
    """
    normalizer = BertNormalizer(lowercase=True)
    texts = sorted(normalizer.normalize_str(_encodable(text)) for text in texts)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    letters = {letter: count for letter, count in counts.items() if not letter.isspace()}
    if not letters:
        raise TokenizerError("no text to train a vocabulary from; set text.tokenizer to a folder or a hub id")
    markers = [*SPECIAL_TOKENS.values(), *ROLE_TOKENS]
    room = (vocab_size - len(markers)) // 4  # letters take at most half: each one comes twice, as x and ##x
    if room < 10:
        raise TokenizerError(f"text.vocab_size {vocab_size} is too small; give at least {len(markers) + 40}")
    alphabet = sorted(sorted(letters), key=lambda letter: -letters[letter])[:room]
    rare = {ord(letter): " " for letter in letters.keys() - set(alphabet)}

    # The trainer numbers letters in the order of a randomly seeded hash map, and breaks ties between merges by these
    # numbers. Letters given as special tokens are numbered in the order given, which makes the vocabulary the same
    # every time; the tokenizer is then built anew, with the markers alone as special tokens.
    first = [*markers, *sorted(alphabet), *(f"##{letter}" for letter in sorted(alphabet))]
    draft = Tokenizer(WordPiece(unk_token="[UNK]"))
    draft.pre_tokenizer = BertPreTokenizer()
    draft.train_from_iterator(
        (text.translate(rare) for text in texts),
        WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False),
    )
    backend = Tokenizer(WordPiece(draft.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer, backend.pre_tokenizer = normalizer, BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS)
    return _with_markers(tokenizer, ROLE_TOKENS)


def load_tokenizer(
    name: str | Path, role_tokens: Sequence[str] = ROLE_TOKENS, spaces: bool | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder or a hub id; [PAD] [SEP] [CLS] and the role tokens join it, in this order, where it
    lacks them. What a folder has keeps its ids.

    `len(tokenizer)` is then the number of embedding rows the text encoder needs, `tokenizer.vocab_size` the number
    without what joined. spaces: whether blanks beside markers are tokens; None = as saved with the folder, else no.
    No code of the repository is ever run: a tokenizer.json is read as it is, and else the files of a known kind
    (vocab.txt, vocab.json + merges.txt). Raises TokenizerError where nothing can be loaded.
    """
    folder = Path(name)
    ways: tuple[Any, ...] = (PreTrainedTokenizerFast, AutoTokenizer, GPT2Tokenizer, BertTokenizer)
    if folder.is_dir() and (folder / "vocab.txt").is_file() and not (folder / "tokenizer.json").is_file():
        ways = (BertTokenizer,)
    reasons: list[str] = []
    for way in ways:
        try:
            options = {"trust_remote_code": False} if way is AutoTokenizer else {}
            tokenizer = way.from_pretrained(str(name), **options)
        except Exception as error:  # OSError, ValueError, KeyError, TypeError, or a bare Exception from `tokenizers`
            reasons.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}")
            continue
        # Without files some classes come up all the same, with their markers and nothing else.
        known = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        if known and isinstance(tokenizer, PreTrainedTokenizerFast):
            if spaces is not None:
                tokenizer.init_kwargs[SPACES] = spaces  # save_pretrained writes it, from_pretrained reads it back
            return _with_markers(tokenizer, role_tokens)
        reasons.append("no vocabulary in it")
    tried = "; ".join(dict.fromkeys(reasons))
    place = (
        f"the folder {name}" if folder.is_dir() else f"{name}: it is no folder here, and no hub id in reach or cached"
    )
    raise TokenizerError(
        f"no tokenizer in {place}. text.tokenizer takes a folder with tokenizer.json (or vocab.txt, or vocab.json and "
        f"merges.txt), a hub id, or null to train a vocabulary from the shards. Tried: {tried}"
    )


def shard_texts(shards: ShardSet, split: str) -> Iterator[str]:
    """Every report section, indication, history and spoken sentence of a split, for `train_tokenizer`.

    Report and context are the study's, so of each study only the first image is read, and the images with gaze.
    """
    layout = shards.layout(split)
    wanted = layout.gaze.copy()  # (images,)
    wanted[np.cumsum(layout.study_runs) - layout.study_runs] = True
    for position in np.flatnonzero(wanted):
        meta = shards.read_meta(split, int(position))
        sections = [*(meta.get("report") or {}).values(), *(meta.get("context") or {}).values()]
        for reading in meta.get("readings") or ():
            sections.extend(sentence["text"] for sentence in reading["sentences"])
        yield from (text for text in sections if text)


def _with_markers(tokenizer: PreTrainedTokenizerFast, role_tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    missing: dict[str, Any] = {
        key: SPECIAL_TOKENS[key]
        for key in ("pad_token", "sep_token", "cls_token")
        if getattr(tokenizer, key, None) is None
    }
    if missing:
        tokenizer.add_special_tokens(missing)
    tokenizer.add_tokens([*role_tokens, *ROLE_TOKENS], special_tokens=True)
    tokenizer.backend_tokenizer.no_truncation()  # a tokenizer.json may carry settings of its own
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


# ------------------------------------------------------------------------------------------------ prompts
def report_ids(tokenizer: PreTrainedTokenizerFast, text: str, max_tokens: int) -> list[int]:
    """Ids of "[CLS] [FINDINGS] text", cut at `max_tokens`."""
    return _prompt(tokenizer, ((FINDINGS, text),), max_tokens)


def context_ids(tokenizer: PreTrainedTokenizerFast, indication: str, history: str, max_tokens: int) -> list[int]:
    """Ids of "[CLS] [INDICATION] indication [SEP] [HISTORY] history", cut at `max_tokens`; either may be empty."""
    return _prompt(tokenizer, ((INDICATION, indication), (tokenizer.sep_token, ""), (HISTORY, history)), max_tokens)


def transcript_ids(tokenizer: PreTrainedTokenizerFast, text: str, max_tokens: int) -> list[int]:
    """Ids of "[CLS] [TRANSCRIPT] text", cut at `max_tokens`."""
    return _prompt(tokenizer, ((TRANSCRIPT, text),), max_tokens)


def report_text(meta: Mapping[str, Any], sections: Sequence[str]) -> str | None:
    """The first of `sections` (findings, impression) that the sample's report has, None where it has none of them."""
    report = meta.get("report") or {}
    for section in sections:
        text = (report.get(section) or "").strip()
        if text:
            return text
    return None


def context_texts(meta: Mapping[str, Any]) -> tuple[str, str] | None:
    """(indication, history), "" for the one that is absent; None where both are."""
    context = meta.get("context") or {}
    indication, history = ((context.get(key) or "").strip() for key in ("indication", "history"))
    return (indication, history) if indication or history else None


def _prompt(tokenizer: PreTrainedTokenizerFast, parts: Sequence[tuple[str, str]], max_tokens: int) -> list[int]:
    """[CLS], then each part's marker and text, with one blank before every marker and every text there is.

    A marker cuts the string, so what stands between two of them is encoded by itself: the blank after a text is its
    last letter, the blank before a text its first. Without `spaces` the blanks are left out.
    """
    blank = " " if tokenizer.init_kwargs.get(SPACES) else ""
    ids = [_marker(tokenizer, tokenizer.cls_token)]
    between = blank  # what stands before the next marker
    for marker, text in parts:
        ids += [*_plain(tokenizer, between), _marker(tokenizer, marker)]
        between = (blank + text if text else "") + blank
    return [*ids, *_plain(tokenizer, between.removesuffix(blank))][:max_tokens]


@lru_cache(maxsize=64)
def _marker(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return _token_id(tokenizer, token)


@lru_cache(maxsize=8192)  # reports of a study come once an image and every epoch, and radiologists repeat themselves
def _plain(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    """Ids of a text, without any marker, whatever it spells."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # "[SEP]" in a text is text; transformers resets this with each of its calls
    ids = backend.encode(_encodable(text), add_special_tokens=False).ids
    special = _special_ids(tokenizer)
    return tuple(i for i in ids if i not in special)


def _encodable(text: str) -> str:
    """The text with lone surrogates, which JSON lets through and UTF-8 does not, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=64)
def _special_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    tokens = [*tokenizer.all_special_tokens, *ROLE_TOKENS, *added]
    return frozenset(_token_id(tokenizer, token) for token in tokens if token != tokenizer.unk_token)


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(index, int)  # one token in, one id out
    return index
