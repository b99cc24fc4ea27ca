from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogaze.config import Config, ConfigError, dump, load, validate


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------ extends
def test_a_child_wins_over_its_parents_key_by_key(tmp_path):
    write(tmp_path, "base.yaml", "optim: {lr: 0.1, weight_decay: 0.2}\nrun: {seed: 7}\ndata: {shards: [a, b]}")
    write(tmp_path, "middle.yaml", "extends: base.yaml\noptim: {lr: 0.3}\ndata: {shards: [c]}")
    resolved = load(write(tmp_path, "leaf.yaml", "extends: middle.yaml\nrun: {name: leaf}"))
    assert (resolved.optim.lr, resolved.optim.weight_decay, resolved.run.seed, resolved.run.name) == (
        0.3,
        0.2,
        7,
        "leaf",
    )
    assert resolved.data.shards == ["c"]  # a list is replaced, not joined


def test_extends_is_relative_to_the_file_and_may_be_a_list_whose_last_wins(tmp_path):
    write(tmp_path, "parts/one.yaml", "run: {seed: 1}\noptim: {lr: 0.5}")
    write(tmp_path, "parts/two.yaml", "run: {seed: 2}")
    resolved = load(write(tmp_path, "runs/leaf.yaml", "extends: [../parts/one.yaml, ../parts/two.yaml]"))
    assert (resolved.run.seed, resolved.optim.lr) == (2, 0.5)


def test_a_diamond_is_no_circle(tmp_path):
    write(tmp_path, "root.yaml", "run: {seed: 3}")
    for name in ("left.yaml", "right.yaml"):
        write(tmp_path, name, "extends: root.yaml")
    assert load(write(tmp_path, "leaf.yaml", "extends: [left.yaml, right.yaml]")).run.seed == 3


def test_a_circle_is_named(tmp_path):
    write(tmp_path, "a.yaml", "extends: b.yaml")
    write(tmp_path, "b.yaml", "extends: a.yaml")
    with pytest.raises(ConfigError, match=r"goes round in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load(tmp_path / "a.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load(write(tmp_path, "empty.yaml", "# nothing\n")) == Config()
    assert load(write(tmp_path, "none.yaml", "extends:\n")) == Config()


# ------------------------------------------------------------------------------------------------ overrides
def test_overrides_have_the_last_word_and_are_yaml(tmp_path):
    path = write(tmp_path, "c.yaml", "optim: {lr: 0.1}\ntext: {tokenizer: somewhere}")
    resolved = load(
        path,
        [
            "optim.lr=2e-3",
            "data.shards=[x, y]",
            "text.tokenizer=null",
            "data.use_context=false",
            "run.name = a b",
        ],
    )
    assert resolved.optim.lr == 2e-3
    assert resolved.data.shards == ["x", "y"]
    assert resolved.text.tokenizer is None
    assert resolved.data.use_context is False
    assert resolved.run.name == "a b"


def test_the_last_of_two_overrides_wins(tmp_path):
    path = write(tmp_path, "c.yaml", "")
    assert load(path, ["run.seed=1", "run.seed=2"]).run.seed == 2


def test_steps_instead_of_epochs(tmp_path):
    path = write(tmp_path, "c.yaml", "train: {epochs: 5}")
    assert load(path, ["train.steps=10", "train.epochs=null"]).train.steps == 10
    with pytest.raises(ConfigError, match=r"exactly one of train\.steps and train\.epochs"):
        load(path, ["train.steps=10"])


# ------------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", r"unknown key optim\.lrr; did you mean optim\.lr\?"),
        ("optimizer: {lr: 1}", r"unknown key optimizer; did you mean optim\?"),
        ("train: {lr: 1}", r"unknown key train\.lr; .*optim\.lr"),
        ("xyz: 1", r"unknown key xyz; known: run, data, "),
        ("optim: 3", r"optim is a section with keys lr, .*, not a int"),
        ("optim: {lr: fast}", r"optim\.lr: .*\(got 'fast'\)"),
        ("optim: {lr: -1}", r"optim\.lr: .*greater than 0"),
        ("data: {context_dropout: 1.5}", r"data\.context_dropout: .*less than or equal to 1"),
        ("train: {strategy: fsdp}", r"train\.strategy: .*'zero2'"),
        ("run: {dir: 's3://bucket/run'}", r"run\.dir: only shards are read from URLs; .*\(got 's3://bucket/run'\)"),
        ("data: {cache_dir: 'gs://bucket/c'}", r"data\.cache_dir: only shards are read from URLs"),
        ("data: {image_size: 500}", r"image_size 500 is not a multiple of the patch size 14; try 504"),
        ("- a\n- b", r"the top level must be a mapping of sections, not list"),
        ("run: {seed: 1\nfoo", r"not valid YAML"),
        ("run: !!python/object:os.system {}", r"not valid YAML"),
        ("extends: [3]", r"`extends` takes a file name or a list of file names, not \[3\]"),
        ("extends: absent.yaml", r"absent\.yaml: no such configuration file"),
    ],
)
def test_errors_name_the_file_the_key_and_a_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load(write(tmp_path, "c.yaml", text))
    assert ".yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", r"'optim\.lr' is not of the form section\.key=value"),
        ("=3", "not of the form"),
        ("optim.lr=[1", "the value is not YAML"),
        ("optim.lrr=1", r"did you mean optim\.lr"),
        ("optim.lr.x=1", r"optim\.lr"),
    ],
)
def test_errors_of_overrides(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, "c.yaml", ""), [override])


def test_all_wrong_keys_are_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as raised:
        load(write(tmp_path, "c.yaml", "optim: {lrr: 1}\nrun: {sed: 1}"))
    assert len(str(raised.value).splitlines()) == 2


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------------ round trip
def test_what_is_dumped_loads_to_the_same(tmp_path):
    resolved = load(
        write(tmp_path, "c.yaml", "run: {dir: runs/ümlaut, seed: 3}"),
        ["train.steps=7", "train.epochs=null", "model.vision.trainable=2", "optim.clip_norm=null"],
    )
    again = load(write(tmp_path, "again.yaml", dump(resolved)))
    assert again == resolved
    assert again.run.dir == Path("runs/ümlaut")
    assert again.model.vision.trainable == 2


@given(
    lr=st.floats(min_value=1e-12, max_value=10),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(min_value=0),
    shards=st.lists(st.text(min_size=1)),
)
def test_numbers_and_texts_survive_exactly(tmp_path_factory, lr, betas, seed, shards):
    tree = {"optim": {"lr": lr, "betas": list(betas)}, "run": {"seed": seed}, "data": {"shards": shards}}
    resolved = validate(tree, "drawn")
    path = write(tmp_path_factory.mktemp("config"), "c.yaml", dump(resolved))
    assert load(path) == resolved


def test_grid_is_patches_a_side():
    assert validate({"data": {"image_size": 112}}, "x").grid == 8
    assert Config().grid == 37
