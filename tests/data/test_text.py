from __future__ import annotations

import json
import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from cogaze.data.text import (
    ROLE_TOKENS,
    TokenizerError,
    context_ids,
    context_texts,
    load_tokenizer,
    report_ids,
    report_text,
    shard_texts,
    train_tokenizer,
    transcript_ids,
)
from tests.data.fakes import WORDS, FakeShards, make_meta

TEXTS = [" ".join(random.Random(i).choices(WORDS, k=20)) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


def tokens(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


# ------------------------------------------------------------------------------------------------ vocabulary
def test_the_vocabulary_is_the_same_every_time_and_in_any_order_of_texts(tokenizer):
    for i in range(3):
        shuffled = random.Random(i).sample(TEXTS, len(TEXTS))
        assert train_tokenizer(iter(shuffled), 400).get_vocab() == tokenizer.get_vocab()


def test_letters_there_is_no_room_for_are_the_same_every_time():
    ties = [chr(0x3B1 + i) * 2 for i in range(24)]  # as frequent as one another
    vocabularies = [train_tokenizer([*TEXTS, *ties], 160).get_vocab() for _ in range(6)]
    assert "α" in vocabularies[0]
    assert "ψ" not in vocabularies[0]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_markers_come_first_and_words_are_learnt(tokenizer):
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ROLE_TOKENS]
    assert tokens(tokenizer, list(range(9))) == first
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) <= 400
    assert tokens(tokenizer, transcript_ids(tokenizer, "Small LEFT effusion", 9)[2:]) == ["small", "left", "effusion"]


def test_a_vocabulary_never_exceeds_its_size():
    alphabet = [chr(0x4E00 + i) * (i + 1) for i in range(60)]
    small = train_tokenizer([*TEXTS, *alphabet], 60)
    assert len(small) <= 60
    assert tokens(small, transcript_ids(small, alphabet[0], 9)[2:]) == ["[UNK]"]  # the rarest letter found no room


def test_training_says_what_it_lacks():
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer(["", " \n"], 400)
    with pytest.raises(TokenizerError, match="vocab_size 20 is too small"):
        train_tokenizer(TEXTS, 20)


def test_saving_and_loading_keeps_every_id(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.pad_token_id == tokenizer.pad_token_id
    for text in [*TEXTS[:5], "unseen Wörter, 3.5 cm; [SEP]"]:
        assert report_ids(loaded, text, 64) == report_ids(tokenizer, text, 64)


# ------------------------------------------------------------------------------------------------ loading
def bert_folder(folder, **config):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "small", "effusion", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, **config}))
    return folder


def test_a_bert_vocabulary_loads_and_gains_the_role_tokens(tmp_path):
    loaded = load_tokenizer(bert_folder(tmp_path))
    assert len(loaded) == 8 + 4
    assert tokens(loaded, report_ids(loaded, "Small effusions", 9)) == [
        "[CLS]", "[FINDINGS]", "small", "effusion", "##s",
    ]  # fmt: skip
    assert report_ids(loaded, "Small effusions", 9) == [2, 8, 5, 6, 7]


def test_code_in_a_repository_never_runs(tmp_path):
    """As CXR-BERT is published: a class of its own, in a Python file beside the vocabulary."""
    sign = tmp_path / "ran"
    code = {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]}
    bert_folder(tmp_path, tokenizer_class="CXRBertTokenizer", auto_map=code)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "cxr-bert", "auto_map": code}))
    (tmp_path / "configuration_cxrbert.py").write_text(f"open({str(sign)!r}, 'w').close()\n")
    assert len(load_tokenizer(tmp_path)) == 12
    assert not sign.exists()


def test_a_gpt2_vocabulary_gains_the_markers_it_lacks(tmp_path):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=letters, show_progress=False
        ),
    )
    backend.model.save(str(tmp_path))
    size = backend.get_vocab_size()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    loaded = load_tokenizer(tmp_path)
    assert len(loaded) == size + 3 + 4  # [PAD] [CLS] [SEP] and the roles
    ids = context_ids(loaded, "small <|endoftext|>", "rib", 64)
    assert ids[0] == loaded.convert_tokens_to_ids("[CLS]")
    assert loaded.convert_tokens_to_ids("<|endoftext|>") not in ids
    assert loaded.decode(ids) == "[CLS][INDICATION]small <|endoftext|>[SEP][HISTORY]rib"


def test_settings_that_a_tokenizer_file_carries_do_not_cut_our_texts(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    carried = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    carried.enable_truncation(3)
    carried.enable_padding(length=16)
    carried.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert report_ids(loaded, TEXTS[0], 64) == report_ids(tokenizer, TEXTS[0], 64)


def test_what_is_no_tokenizer_is_named_with_a_remedy(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer in the folder .*takes a folder with tokenizer.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match=r"some/where-else: it is no folder here, and no hub id in reach"):
        load_tokenizer("some/where-else")
    (tmp_path / "tokenizer.json").write_text("{ not JSON")
    with pytest.raises(TokenizerError, match="no tokenizer in the folder"):
        load_tokenizer(tmp_path)


# ------------------------------------------------------------------------------------------------ prompts
def test_prompts(tokenizer):
    assert tokens(tokenizer, report_ids(tokenizer, "clear lungs", 9)) == ["[CLS]", "[FINDINGS]", "clear", "lungs"]
    assert tokens(tokenizer, transcript_ids(tokenizer, "clear", 9)) == ["[CLS]", "[TRANSCRIPT]", "clear"]
    context = ["[CLS]", "[INDICATION]", "fracture", "[SEP]", "[HISTORY]", "device"]
    assert tokens(tokenizer, context_ids(tokenizer, "fracture", "device", 9)) == context
    assert tokens(tokenizer, context_ids(tokenizer, "", "device", 9)) == [*context[:2], *context[3:]]
    assert tokens(tokenizer, context_ids(tokenizer, "fracture", "", 9)) == context[:-1]


def test_markers_spelt_in_a_text_stay_text(tokenizer):
    spelt = "[CLS] small [SEP][FINDINGS] [PAD] [MASK] effusion"
    ids = report_ids(tokenizer, spelt, 64)
    assert not set(ids[2:]) & {tokenizer.convert_tokens_to_ids(t) for t in ("[CLS]", "[SEP]", "[PAD]", "[MASK]")}
    assert not set(ids[2:]) & set(tokenizer.convert_tokens_to_ids(list(ROLE_TOKENS)))
    assert {"small", "effusion", "s", "##p"} <= set(tokens(tokenizer, ids))
    tokenizer("another call of the library in between")
    assert report_ids(tokenizer, spelt + " ", 64) == ids


def test_long_and_odd_texts(tokenizer):
    assert len(report_ids(tokenizer, "lungs " * 5000, 64)) == 64
    assert len(context_ids(tokenizer, "lungs " * 5000, "rib", 64)) == 64
    assert tokens(tokenizer, report_ids(tokenizer, "x" * 5000, 64)) == ["[CLS]", "[FINDINGS]", "[UNK]"]
    plain = report_ids(tokenizer, "clear lungs", 64)
    assert report_ids(tokenizer, "cle\0ar\x07 \u200b lungs\r\n", 64) == plain  # control characters go
    assert tokens(tokenizer, report_ids(tokenizer, "lungs \U0001fac1 \ud800", 64))[2:] == ["lungs", "[UNK]", "[UNK]"]
    assert report_ids(tokenizer, "", 64) == plain[:2]


def test_the_report_is_the_first_section_present():
    both = make_meta(report={"findings": " f ", "impression": "i"})
    assert report_text(both, ["findings", "impression"]) == "f"
    assert report_text(both, ["impression", "findings"]) == "i"
    one = make_meta(report={"findings": None, "impression": "i"})
    assert report_text(one, ["findings", "impression"]) == "i"
    assert report_text(one, ["findings"]) is None
    assert report_text(make_meta(report=None), ["findings"]) is None


def test_context_needs_one_of_its_parts():
    assert context_texts(make_meta(context={"indication": "a", "history": None})) == ("a", "")
    assert context_texts(make_meta(context={"indication": None, "history": "b"})) == ("", "b")
    assert context_texts(make_meta(context={"indication": " ", "history": None})) is None
    assert context_texts(make_meta(context=None)) is None


def test_texts_for_a_vocabulary_are_each_studys_and_every_readings():
    shards = FakeShards(studies=12)
    texts = list(shard_texts(shards, "train"))
    findings = {s.meta["report"]["findings"] for s in shards.samples} - {None}
    spoken = [x["text"] for s in shards.samples for r in s.meta["readings"] for x in r["sentences"]]
    assert spoken
    assert set(texts) >= findings | set(spoken)
    assert all(isinstance(text, str) and text for text in texts)
    assert len(shards.samples) > len(findings)
