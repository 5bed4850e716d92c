"""Relations of a row: of two spans by their positions, or by their ids as Doccano writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyhot.toolkit.errors import InputError, shown
from manyhot.toolkit.read.formats.marked import Link

KEY = "relations"
# What the two spans of a relation are called, by position and by id, and its type.
HEADS, TAILS, FROM, TO, TYPES = "head", "tail", "from_id", "to_id", ("type", "label")
EXPECTED = (
    'expected a relation [head, tail, type], positions of two entities from 0, {"head", "tail", "type"}, or '
    '{"from_id", "to_id", "type"} of entities with ids'
)


def links_of(where: str, record: dict[str, Any], spans: Any) -> list[Link]:
    """Return the relations of a row as it has them; :func:`check_links` looks at positions once spans are known.

    Args:
        where: the file and the row, for messages.
        record: the row.
        spans: as the row has them, for their ids.

    Raises:
        InputError: what is no relation, or has ids that no span has.
    """
    links = record.get(KEY)
    if links is None:
        return []
    if not isinstance(links, list):
        raise InputError(f"{where}, {KEY!r}: expected a list of relations, got {shown(links)}; correct the row")
    named = spans if isinstance(spans, list) else []
    ids = [(span["id"], i) for i, span in enumerate(named) if isinstance(span, dict) and _is_id(span.get("id"))]
    position = dict(ids)
    if len(position) < len(ids) and any(isinstance(link, dict) and FROM in link for link in links):
        twice = next(name for name, i in ids if position[name] != i)
        raise InputError(
            f"{where}: expected each id of an entity once, got {shown(twice)} again; number the entities of the row"
        )
    found: list[Link] = []
    for link in links:
        by_id = isinstance(link, dict) and FROM in link
        parts: list[Any] = link if isinstance(link, list) else []
        if isinstance(link, dict):
            kind = next((link[name] for name in TYPES if name in link), None)
            parts = [*(link.get(name) for name in ((FROM, TO) if by_id else (HEADS, TAILS))), kind]
        if len(parts) != 3 or not isinstance(parts[2], str) or not parts[2].strip():
            raise InputError(f"{where}, {KEY!r}: {EXPECTED}, got {shown(link)}; correct the relation")
        *ends, kind = parts
        if by_id:
            for end in ends:
                if not _is_id(end) or end not in position:
                    known = f"the ids of its entities are {', '.join(map(shown, list(position)[:8]))}"
                    said = known if position else "its entities have no ids"
                    raise InputError(
                        f"{where}, {KEY!r}: expected ids of entities, got {shown(link)}; {said}; correct the relation"
                    )
            ends = [position[end] for end in ends]
        if any(not isinstance(end, int) or isinstance(end, bool) for end in ends):
            raise InputError(f"{where}, {KEY!r}: {EXPECTED}, got {shown(link)}; correct the relation")
        found.append(Link(ends[0], ends[1], str(kind).strip()))
    return found


def check_links(where: str, links: Sequence[Link], spans: int) -> None:
    """Refuse relations of spans that a row does not have.

    Raises:
        InputError: names the relation.
    """
    for link in links:
        if not (0 <= link.head < spans and 0 <= link.tail < spans):
            raise InputError(
                f"{where}, {KEY!r}: expected positions from 0 of the row's {spans} entities, got "
                f"{shown(list(link))}; correct the relation"
            )


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)
