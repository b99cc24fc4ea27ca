from __future__ import annotations

import itertools
import json
import pickle
import random
import shutil

import huggingface_hub.constants
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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


def byte_level(add_prefix_space=False):
    """A byte-level BPE of about 400 entries, as GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=letters, show_progress=False
        ),
    )
    return backend


def test_a_byte_level_vocabulary_gains_the_markers_it_lacks(tmp_path):
    backend = byte_level()
    backend.model.save(str(tmp_path))
    size = backend.get_vocab_size()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    loaded = load_tokenizer(tmp_path)
    assert len(loaded) == size + 3 + 4  # [PAD] [SEP] [CLS] and the roles
    assert loaded.vocab_size == size
    ids = context_ids(loaded, "small <|endoftext|>", "rib", 64)
    assert ids[0] == loaded.convert_tokens_to_ids("[CLS]")
    assert loaded.convert_tokens_to_ids("<|endoftext|>") not in ids
    assert loaded.decode(ids) == "[CLS][INDICATION]small <|endoftext|>[SEP][HISTORY]rib"


RELEASED_ROLES = ["[INDICATION]", "[HISTORY]", "[Similar Cases]", "[FINDINGS]", "[TRANSCRIPT]"]


def gpt2_folder(folder):
    """A vocabulary of GPT-2's size and files, of made-up merges: 256 bytes, 50,000 merges, <|endoftext|>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(itertools.islice(itertools.product(letters, letters), 50000))
    entries = [*letters, *(a + b for a, b in merges), "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return folder


def hub_cache(folder, name, home):
    """The folder as a download of hub id `name` leaves it below `home`."""
    home = home / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)


@pytest.mark.parametrize("files", ["vocab and merges", "with config.json", "hub"])
def test_gpt2_gains_the_ids_of_the_released_model(tmp_path, monkeypatch, files):
    name = gpt2_folder(tmp_path / "gpt2")
    if files != "vocab and merges":
        (name / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 50257}')
    if files == "hub":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        hub_cache(name, "distilgpt2", tmp_path / "hub")
        name = "distilgpt2"
    loaded = load_tokenizer(name, RELEASED_ROLES, spaces=True)
    assert (loaded.vocab_size, len(loaded)) == (50257, 50265)
    assert (loaded.pad_token_id, loaded.sep_token_id, loaded.cls_token_id) == (50257, 50258, 50259)
    assert loaded.convert_tokens_to_ids(RELEASED_ROLES) == [50260, 50261, 50262, 50263, 50264]
    blank = loaded.convert_tokens_to_ids("Ġ")
    assert context_ids(loaded, "", "", 64) == [50259, blank, 50260, blank, 50258, blank, 50261]
    loaded.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")  # other roles by default, but these are already there
    assert again.get_vocab() == loaded.get_vocab()
    assert (again.vocab_size, len(again)) == (50257, 50265)


def test_a_folder_with_tokenizer_json_alone_gains_them_too(tmp_path):
    backend = byte_level()
    size = backend.get_vocab_size()
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    loaded = load_tokenizer(tmp_path, RELEASED_ROLES)
    joined = ["[PAD]", "[SEP]", "[CLS]", *RELEASED_ROLES]
    assert loaded.convert_tokens_to_ids(joined) == list(range(size, size + 8))


def test_role_tokens_join_in_the_order_given_and_all_four_always_do(tmp_path):
    loaded = load_tokenizer(bert_folder(tmp_path), ["[HISTORY]", "[Other]"])
    joined = ["[HISTORY]", "[Other]", "[FINDINGS]", "[TRANSCRIPT]", "[INDICATION]"]
    assert loaded.convert_tokens_to_ids(joined) == [8, 9, 10, 11, 12]
    assert 9 not in report_ids(loaded, "[Other] small", 64)
    assert loaded.vocab_size == 8


def test_a_role_token_that_the_vocabulary_has_as_a_word_is_no_text(tmp_path):
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[Other]", "small"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path, ["[Other]"])
    assert tokens(loaded, report_ids(loaded, "[Other] small [SEP]", 9)) == ["[CLS]", "[FINDINGS]", "small"]


def test_a_bert_vocabulary_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "cxr-bert"
    folder.mkdir()
    code = {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]}
    bert_folder(folder, tokenizer_class="CXRBertTokenizer", auto_map=code)
    (folder / "config.json").write_text(json.dumps({"model_type": "cxr-bert", "auto_map": code}))
    (folder / "configuration_cxrbert.py").write_text("raise SystemExit('remote code was run')")
    hub_cache(folder, "microsoft/BiomedVLP-CXR-BERT-specialized", tmp_path / "hub")
    loaded = load_tokenizer("microsoft/BiomedVLP-CXR-BERT-specialized")
    assert report_ids(loaded, "Small effusions", 9) == [2, 8, 5, 6, 7]


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


@pytest.fixture(scope="module", params=[False, True], ids=["gpt2", "prefix"])
def spaced(request, tmp_path_factory):
    """A byte-level tokenizer for which blanks are text."""
    folder = tmp_path_factory.mktemp("byte-level")
    PreTrainedTokenizerFast(tokenizer_object=byte_level(request.param)).save_pretrained(folder)
    return load_tokenizer(folder, RELEASED_ROLES, spaces=True)


def called(tokenizer, *parts):
    """The string of the parts that are there with a blank between them, through the tokenizer's own call."""
    return tokenizer(" ".join(part for part in parts if part), add_special_tokens=False)["input_ids"]


def test_blanks_are_tokens_where_they_are_text(spaced):
    ids = context_ids(spaced, "small rib.", "", 64)
    assert tokens(spaced, ids) == ["[CLS]", "Ġ", "[INDICATION]", "Ġsmall", "Ġrib", ".", "Ġ", "[SEP]", "Ġ", "[HISTORY]"]
    assert tokens(spaced, context_ids(spaced, "", "rib", 64)) == [
        "[CLS]", "Ġ", "[INDICATION]", "Ġ", "[SEP]", "Ġ", "[HISTORY]", "Ġrib",
    ]  # fmt: skip
    assert tokens(spaced, report_ids(spaced, "rib", 64)) == ["[CLS]", "Ġ", "[FINDINGS]", "Ġrib"]
    assert tokens(spaced, report_ids(spaced, "rib rib", 4)) == ["[CLS]", "Ġ", "[FINDINGS]", "Ġrib"]
    assert tokens(spaced, transcript_ids(spaced, "", 64)) == ["[CLS]", "Ġ", "[TRANSCRIPT]"]


texts = st.one_of(
    st.lists(st.sampled_from([*WORDS, ".", "  ", "\n", "é", "肺", "\U0001fac1", "[", "]"])).map(" ".join), st.text()
).filter(lambda text: not any(marker in text for marker in ["[PAD]", "[SEP]", "[CLS]", *RELEASED_ROLES]))


@settings(max_examples=60)
@given(first=texts, second=texts)
@example(first="", second="")
@example(first=" ", second="  two blanks  and\na line \n")
@example(first="effusion\t", second="\u00a0rib\u2009\u0301")
def test_ids_with_spaces_are_those_of_calling_the_tokenizer(spaced, first, second):
    assert report_ids(spaced, first, 10**6) == called(spaced, "[CLS]", "[FINDINGS]", first)
    assert transcript_ids(spaced, second, 10**6) == called(spaced, "[CLS]", "[TRANSCRIPT]", second)
    whole = called(spaced, "[CLS]", "[INDICATION]", first, "[SEP]", "[HISTORY]", second)
    assert context_ids(spaced, first, second, 10**6) == whole
    assert context_ids(spaced, first, second, 7) == whole[:7]


def test_markers_spelt_in_a_text_stay_text_with_spaces_too(spaced):
    spelt = "[CLS] small [SEP][FINDINGS] [Similar Cases] <|endoftext|>"
    ids = report_ids(spaced, spelt, 256)
    assert spaced.decode(ids[3:]) == " " + spelt
    assert not set(ids[3:]) & set(spaced.get_added_vocab().values())
    assert called(spaced, "[CLS]", "[FINDINGS]", spelt) != ids


def test_the_tokenizers_folder_remembers_spaces(spaced, tmp_path):
    text = "small  rib"
    expected = report_ids(spaced, text, 64)
    spaced.save_pretrained(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert report_ids(loaded, text, 64) == expected
    loaded.save_pretrained(tmp_path / "again")
    assert report_ids(load_tokenizer(tmp_path / "again"), text, 64) == expected
    assert report_ids(AutoTokenizer.from_pretrained(tmp_path / "again"), text, 64) == expected
    assert report_ids(pickle.loads(pickle.dumps(loaded)), text, 64) == expected
    without = load_tokenizer(tmp_path / "saved", spaces=False)
    assert report_ids(without, text, 64) != expected
    without.save_pretrained(tmp_path / "without")
    assert report_ids(load_tokenizer(tmp_path / "without"), text, 64) == report_ids(without, text, 64)


def test_a_vocabulary_of_words_has_no_blanks(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    spaced_words = load_tokenizer(tmp_path, spaces=True)
    assert context_ids(spaced_words, "small rib", "", 64) == context_ids(tokenizer, "small rib", "", 64)
    assert report_ids(spaced_words, " small  rib ", 64) == report_ids(tokenizer, "small rib", 64)


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
