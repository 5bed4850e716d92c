"""Lists of label names: one a line, or the XML that MULAN keeps beside its ARFF files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from manyhot.toolkit.errors import InputError, first_line, reading
from manyhot.toolkit.read.formats.files import check_is_file, read_text


def read_label_names(path: str | Path, encoding: str | None = None) -> list[str]:
    """Read a list of label names in the order of the file.

    Args:
        path: a text file with one name a line; white space round a name is dropped, and so are empty lines at the
            end. Or NAME.xml of MULAN: the name of each `label` element, also of those inside others.
        encoding: where it is not UTF-8.

    Raises:
        InputError: the file is missing or empty, a line is blank, or a name comes twice.
    """
    with reading(path):
        return _read_names(Path(path), encoding)


def _read_names(path: Path, encoding: str | None) -> list[str]:
    check_is_file(path)
    if path.suffix.lower() == ".xml":
        return _read_xml(path)
    names = [line.strip() for line in read_text(path, encoding).decode().rstrip().split("\n")]
    first: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{path}, line {line}: expected a label name, got a blank line; delete the line")
        if name in first:
            raise InputError(
                f"{path}, line {line}: expected each label name once, got {name!r} again after line {first[name]}; "
                "delete or rename one of them"
            )
        first[name] = line
    return names


def find_mulan(path: Path) -> Path | None:
    """Find MULAN's XML beside an ARFF file: the one with the longest name that the file's name starts with."""
    stem = path.name.lower().partition(".arff")[0]
    beside = [file for file in path.parent.iterdir() if file.suffix.lower() == ".xml"]
    fitting = [file for file in beside if stem.startswith(file.stem.lower())]
    return max(fitting, key=lambda file: len(file.stem), default=None)


def _read_xml(path: Path) -> list[str]:
    data = read_text(path)
    # Definitions can make a small file expand to gigabytes, and MULAN's files have none.
    if b"<!" in data.replace(b"<!--", b""):
        raise InputError(f"{path}: expected MULAN's XML without definitions (<!...>), got some; delete them")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(
            f"{path}: expected MULAN's XML, got a damaged file ({first_line(error)}); correct it"
        ) from None
    names = [label.get("name", "") for label in root.iter() if label.tag.rpartition("}")[2] == "label"]
    if not names or "" in names:
        raise InputError(f'{path}: expected elements <label name="...">, got none or one without a name; add the names')
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path}: expected each label name once, got {name!r} again; delete or rename one of them")
        seen.add(name)
    return names
