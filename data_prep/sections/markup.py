"""Marks of other formats in report text: HTML tags and entities, line breaks spelt out as a backslash and a letter.

They come with exports of web forms and of databases. Only what cannot be meant as text is touched: tags of TAGS and
INLINE in their full form, entities with their semicolon. "a < b", "<3 mm", "AT&T", "<unk>" and "<s>" stay.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from html.entities import name2codepoint

# Tags that end a line of text, and tags that change nothing but its look.
TAGS = "br|p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|thead|tbody|hr|pre|section|article|h[1-6]|html|head|body|blockquote"
INLINE = "b|i|u|em|strong|span|font|sup|sub|small|big|center|tt|code|a"
ATTRIBUTE = r"""\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+)"""
TAG = re.compile(rf"</?(?:({TAGS})|{INLINE})(?:{ATTRIBUTE})*\s*/?>", re.IGNORECASE)
# "&amp;lt;" was escaped twice. Names are those of HTML 4: the many of HTML 5 hold ordinary words ("&lat;", "&top;").
ENTITY = re.compile(r"&(?:amp;)*(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8}[0-9]{0,2});")
# "\r" before a small letter is a word ("left\right"), "\n" hardly ever.
SPELT_BREAK = re.compile(r"(?:\\{1,2}r)?\\{1,2}n|\\{1,2}r(?![a-z])")


class Visible(dict[int, int]):
    """For str.translate, filled as it is used: what cannot be printed becomes a blank, unless it is in `kept`."""

    def __init__(self, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.kept = kept

    def __missing__(self, code: int) -> int:
        character = chr(code)
        self[code] = code if character.isprintable() or character in self.kept else ord(" ")
        return self[code]


def unmarked(text: str) -> str:
    """The text without tags and entities; tags that end a line and spelt-out line breaks become line breaks.

    Text without any of them comes back as it is. Time grows with the length alone.
    """
    if "&" in text:
        text = ENTITY.sub(_character, text)
    if "<" in text:
        text = TAG.sub(_break, text)
    if "\\" in text:
        text = SPELT_BREAK.sub("\n", text)
    return text


def _break(tag: re.Match[str]) -> str:
    """What stands in a tag's place; an item of a list gets its mark, or "No effusion" would run into the next."""
    if tag[0][:3].lower() == "<li":
        return "\n- "
    return "\n" if tag[1] else ""


def _character(match: re.Match[str]) -> str:
    name = match[1]
    known = name[0] == "#" or name in name2codepoint or name == "apos"
    return html.unescape(f"&{name};") if known else match[0]
