"""What an installed package promises: quick imports, types, one command, and layers that point one way."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cogaze
from cogaze import config
from data_prep.records import Quarantine

ROOT = Path(__file__).parent.parent
PACKAGES = ("cogaze", "data_prep", "launch")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "transformers", "accelerate", "deepspeed", "mlflow", "pandas", "scipy", "sklearn", "matplotlib")


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; sys.stderr.write(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in shown.stderr.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import cogaze",
        "import cogaze.config",
        "import cogaze.tracking",
        "import launch.local, launch.environment",
        "from cogaze.cli import main; main.run(['--help'])",
        "from cogaze.cli import main; main.run(['data', 'build', '--help'])",
    ],
)
def test_nothing_heavy_before_it_is_needed(code):
    assert loaded_by(code).isdisjoint(HEAVY)


def test_version_and_command_of_the_installed_distribution():
    assert importlib.metadata.version("cogaze") == cogaze.__version__
    (command,) = [e for e in importlib.metadata.distribution("cogaze").entry_points if e.group == "console_scripts"]
    assert (command.name, command.value) == ("cogaze", "cogaze.cli.main:run")


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_every_file_beside_the_code_is_package_data():
    """Phrases, mappings and pages have to be named in pyproject.toml, or a wheel lacks them."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        folder = ROOT / package
        there = {p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
        shipped = {path for pattern in patterns[package] for path in folder.glob(pattern)}
        assert sorted(there - shipped) == []
        assert all(list(folder.glob(pattern)) for pattern in patterns[package])


# ------------------------------------------------------------------------------------------------ layers
def imports(path: Path) -> set[str]:
    """Absolute dotted names a module imports, wherever in the file; `from x import y` gives x and x.y."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = f"{base}{node.module or ''}".rstrip(".")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def below(names: set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(f"{package}.")}


# folder -> what nothing in it may import
FORBIDDEN = {
    "cogaze/data": ("cogaze.model", "cogaze.losses", "cogaze.train", "cogaze.evaluate", "cogaze.cli"),
    "cogaze/model": ("cogaze.losses", "cogaze.train", "cogaze.evaluate", "cogaze.cli"),
    "cogaze/losses": ("cogaze.train", "cogaze.evaluate", "cogaze.cli"),
    "cogaze/evaluate": ("cogaze.train", "cogaze.cli"),
    "cogaze/embed": ("cogaze.train", "cogaze.cli"),
    "cogaze/export": ("cogaze.train", "cogaze.cli"),
    "data_prep": ("torch", "cogaze.model", "cogaze.losses", "cogaze.train", "cogaze.evaluate", "cogaze.cli", "launch"),
    "launch": ("data_prep", "cogaze", "torch"),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers_point_one_way(path):
    name = path.relative_to(ROOT).as_posix()
    found = imports(path)
    for folder, forbidden in FORBIDDEN.items():
        if name.startswith(f"{folder}/"):
            assert not below(found, *forbidden), f"{name} imports upward"
    if name.startswith("cogaze/") and not name.startswith("cogaze/cli/"):
        assert not below(found, "data_prep", "launch"), f"{name}: only cogaze/cli may import data_prep and launch"


def test_the_layer_check_sees_relative_and_inner_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "cogaze" / "data" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("from .. import train\ndef f():\n    from ..model.text import Text\n    import data_prep.build\n")
    assert imports(path) == {
        "cogaze", "cogaze.train", "cogaze.model.text", "cogaze.model.text.Text", "data_prep.build",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ files beside the code
@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_loads(path):
    resolved = config.load(path)
    assert config.validate(yaml.safe_load(config.dump(resolved)), "again") == resolved


def keys(tree: dict, prefix: str = "") -> set[str]:
    return {
        name
        for key, value in tree.items()
        for name in (keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"})
    }


def test_base_config_shows_every_key_with_its_default():
    """base.yaml is the reference a reader looks into: no key is missing and no value is another than the code's."""
    written = yaml.safe_load((ROOT / "configs" / "base.yaml").read_text())
    default = config.Config().model_dump(mode="json")
    assert keys(written) == keys(default)
    assert config.load(ROOT / "configs" / "base.yaml") == config.Config()


def test_constraints_pin_every_direct_dependency():
    requirements = importlib.metadata.requires("cogaze") or []
    direct = {re.split(r"[\s;<>=!\[~]", requirement)[0].lower().replace("_", "-") for requirement in requirements}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert direct - pinned == set()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def tree_of_the_readme() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\n```[a-z]*\n(.*?)```", text, re.S)
    assert block is not None
    return [line.split()[0] for line in block[1].splitlines() if line.strip()]


def test_the_readme_tree_is_the_tree():
    listed = tree_of_the_readme()
    assert [name for name in listed if not (ROOT / name).exists()] == []
    modules = {path.relative_to(ROOT).as_posix() for path in MODULES if path.name != "__init__.py"}
    folders = {name for name in listed if name.endswith("/")}
    unlisted = {m for m in modules if m not in listed and not any(f == m.rpartition("/")[0] + "/" for f in folders)}
    assert unlisted == set()


def test_the_worked_example_of_a_reader_works(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- worked example.*?-->\n```python\n(.*?)```", text, re.S)
    assert example is not None
    module: dict = {"__name__": "data_prep.clinic"}
    exec(compile(example[1], "CONTRIBUTING.md", "exec"), module)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    (tmp_path / "studies.csv").write_text(
        "image,study,patient,view,report\na.png,s1,p1,PA,Clear.\nb.png,s2,p2,AP,Clear.\n../studies.csv,s3,p3,,x\na.png,s4,p4,,\n"
    )
    quarantine = Quarantine()
    (record,) = module["read"](tmp_path, quarantine)
    assert (record.image_id, record.study_id, record.view, record.findings) == ("a.png", "s1", "PA", "Clear.")
    assert record.path == tmp_path / "images" / "a.png"
    assert record.split in ("train", "validate", "test")
    assert quarantine.counts() == {"image file missing": 2, "study without a report": 1}


def test_the_list_of_odd_data_names_tests_that_there_are():
    page = (ROOT / "docs" / "edge-cases.md").read_text(encoding="utf-8")
    cells = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert len(cells) > 30
    missing = []
    for file, names in re.findall(r"`([\w/]+)`(?:: ([^;|]+))?", " ".join(cells).replace(" `", "; `")):
        path = ROOT / "tests" / f"{file if (ROOT / 'tests' / f'{file}.py').is_file() else f'data_prep/{file}'}.py"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for name in [n.strip().replace(" ", "_") for n in names.split(",") if n.strip()]:
            if f"def test_{name}(" not in text:
                missing.append(f"{file}: {name}")
        if not text:
            missing.append(file)
    assert missing == []
