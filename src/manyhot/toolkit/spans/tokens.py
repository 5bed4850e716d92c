"""Texts to tokens: words, numbers and signs; each character by itself where a script puts no spaces between words."""

import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from manyhot.toolkit.models.term_blocks import SPACELESS


class Token(NamedTuple):
    """A token, and where it stands in its text: code points, the end exclusive."""

    text: str
    start: int
    end: int


def tokenize(text: str, *, characters: bool = False) -> list[Token]:
    """Cut a text into tokens; white space is in none.

    A token is a run of letters with their combining marks, a run of digits, a character of a script without spaces, or
    any other character that is no space. With `characters` it is any character that is no space, marks included.

    Example:
        >>> [token.text for token in tokenize("Köln-Deutz, 北京2022")]
        ['Köln', '-', 'Deutz', ',', '北', '京', '2022']
    """
    tokens = []
    at = 0
    for kind, run in groupby(text, _character if characters else _kind):
        size = len(list(run))
        if kind == "single":
            tokens += [Token(text[i], i, i + 1) for i in range(at, at + size)]
        elif kind != "space":
            tokens.append(Token(text[at : at + size], at, at + size))
        at += size
    return tokens


@lru_cache(maxsize=2**16)
def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category[0] == "N":
        return "digits" if character.isdecimal() else "single"
    if category[0] in "LM":
        return "single" if unicodedata.name(character, "").startswith(SPACELESS) else "letters"
    return "single"


def _character(character: str) -> str:
    return "space" if character.isspace() else "single"
