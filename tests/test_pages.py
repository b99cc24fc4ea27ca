"""The style that all pages share: in each of them whole, and the only one that speaks of colours."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest

from cogaze import pages

ROOT = Path(__file__).resolve().parents[1]
STYLE = ROOT / "cogaze" / "pages.css"
TEMPLATES = sorted(path for package in ("cogaze", "data_prep") for path in (ROOT / package).rglob("*.html"))


def rules(css: str) -> list[str]:
    """Selector and body of every rule, those inside @media blocks with them."""
    plain = re.sub(r"/\*.*?\*/|\{[{%#].*?[}%#]\}|@media[^{]*\{", "", css, flags=re.S)
    return [f"{selector.strip()}{{{body}}}" for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", plain)]


def test_rules_are_found():
    assert rules("/* a{b} */ a{x:1}b,c{y:2}\n@media print{d{z:3}e{}}f{g:4}") == [
        "a{x:1}",
        "b,c{y:2}",
        "d{z:3}",
        "e{}",
        "f{g:4}",
    ]
    assert len(rules(STYLE.read_text())) > 50


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_takes_the_style_in_and_repeats_none_of_it(path):
    text = path.read_text(encoding="utf-8")
    (style,) = re.findall(r"<style>\n(.*?)</style>", text, re.S)
    assert style.startswith('{% include "pages.css" %}\n')
    assert set(rules(style)) & set(rules(STYLE.read_text(encoding="utf-8"))) == set()
    assert '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
    assert not re.search(r"(src|href)=[\"'](https?:)?//|@import|url\(", text + STYLE.read_text(encoding="utf-8"))
    package = ".".join(path.relative_to(ROOT).parent.parts)
    source, _, _ = pages.environment(package).loader.get_source(None, path.name)
    assert source.splitlines() == text.splitlines()


def test_what_a_template_is_given_is_escaped_and_has_to_be_given():
    environment = pages.environment("cogaze.evaluate")
    assert environment.from_string("{{ said }}").render(said="<b>&") == "&lt;b&gt;&amp;"
    with pytest.raises(jinja2.UndefinedError, match="said"):
        environment.from_string("{{ said }}").render()
    style = STYLE.read_text(encoding="utf-8").rstrip("\n")
    assert environment.from_string('{% include "pages.css" %}').render() == style  # nothing in it is markup to jinja
