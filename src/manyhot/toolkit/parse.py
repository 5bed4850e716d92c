"""JSON and TOML that anybody may have written: whatever is wrong with them is a ValueError."""

import json
import tomllib
from collections.abc import Callable
from typing import Any

# Python refuses to read numbers of more than 4,300 digits, and no float holds one of more than 309.
MOST_DIGITS = 300


def parse_json(text: str | bytes, *, finite: bool = True, pairs: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Parse JSON.

    Args:
        text: bytes are UTF-8.
        finite: refuse a number such as 1e999, which a float holds as infinity.
        pairs: makes an object of its keys and values.

    Raises:
        ValueError: no JSON, NaN or Infinity, lists within lists without end, or a number of hundreds of digits.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return json.loads(
            text,
            object_pairs_hook=pairs,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_finite if finite else float,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: no TOML, lists within lists without end, or a number of thousands of digits.
    """
    try:
        return tomllib.loads(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON, a missing value is null")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is none that can be used")
    return int(text)


def _finite(text: str) -> float:
    if abs(number := float(text)) == float("inf"):
        raise ValueError(f"the number {text[:40]} is too large")
    return number
