"""Files with relations: every form gives the same rows, and what is no relation is refused by name."""

import json
from pathlib import Path

import pytest

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.formats.marked import Link, Reading
from manyhot.toolkit.read.spans import read_marked
from manyhot.toolkit.spans.sentences import sentences_of
from relation_rows import linked_sentences, write_relations

ROWS = linked_sentences(20)
LINKED = Reading(relations=True)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
@pytest.mark.parametrize("form", ["tokens", "named", "tags", "doccano"])
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str, form: str) -> None:
    file = read_marked(write_relations(tmp_path / name, ROWS, form), LINKED)
    got = sentences_of(file.rows, "d")
    for row, (tokens, spans, relations) in enumerate(ROWS):
        assert [row.links for row in file.rows][row] == [Link(*link) for link in relations]
        if form != "doccano":  # a text is cut into tokens anew
            assert got.tokens[row] == tokens
        assert sorted((head[2], kind, tail[2]) for head, kind, tail in got.relations[row]) == sorted(
            (spans[h][2], kind, spans[t][2]) for h, t, kind in relations
        )
        for head, _, tail in got.relations[row]:
            assert {head, tail} <= set(got.spans[row])
    number = sum(len(relations) for *_, relations in ROWS)
    assert file.said[0].endswith(f"3 types; {number} relations of 4 types")
    # Where relations are not asked for, they may be anything.
    assert all(not row.links for row in read_marked(tmp_path / name).rows)


def test_a_relation_of_a_span_astride_of_tokens_stands_before_the_row(tmp_path: Path) -> None:
    record = {
        "text": "Ada in Lakeside",
        "entities": [
            {"id": "a", "start_offset": 0, "end_offset": 3, "label": "PER"},
            {"id": "b", "start_offset": 7, "end_offset": 11, "label": "LOC"},
        ],
        "relations": [{"from_id": "a", "to_id": "b", "type": "in"}] * 2,
    }
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    rows = sentences_of(read_marked(tmp_path / "d.jsonl", LINKED).rows, "d")
    assert rows.relations == [[((0, 1, "PER"), "in", (-2, -1, "LOC"))]]


ENTITIES = [[0, 1, "X"], [1, 2, "Y"]]
REFUSED = [
    ([[0, 2, "r"]], "expected positions from 0 of the row's 2 entities, got [0, 2, 'r']"),
    ([[-1, 0, "r"]], "expected positions from 0 of the row's 2 entities"),
    ([[0, 1]], "expected a relation [head, tail, type], positions of two entities from 0"),
    ([[0, 1, 2]], "expected a relation [head, tail, type]"),
    ([[0, 1, " "]], "expected a relation [head, tail, type]"),
    ([["0", 1, "r"]], "expected a relation [head, tail, type]"),
    ([{"head": 0, "type": "r"}], "expected a relation [head, tail, type]"),
    ([{"from_id": 0, "to_id": 1, "type": "r"}], "expected ids of entities"),
    ("r", "expected a list of relations, got 'r'"),
]


@pytest.mark.parametrize(("relations", "said"), REFUSED)
def test_what_is_no_relation_is_refused(tmp_path: Path, relations: object, said: str) -> None:
    record = {"tokens": ["a", "b"], "entities": ENTITIES, "relations": relations}
    (tmp_path / "d.jsonl").write_text(json.dumps(record | {"relations": []}) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(InputError) as caught:
        read_marked(tmp_path / "d.jsonl", LINKED)
    assert "line 2, 'relations': " in str(caught.value)
    assert said in str(caught.value)


def test_ids_that_no_entity_has_and_files_without_a_place_for_relations(tmp_path: Path) -> None:
    entities = [{"id": 4, "start_offset": 0, "end_offset": 1, "label": "X"}]
    record = {"text": "a", "entities": entities, "relations": [{"from_id": 4, "to_id": 5, "type": "r"}]}
    (tmp_path / "d.json").write_text(json.dumps([record]))
    with pytest.raises(InputError, match=r"row 1, 'relations'.*the ids of its entities are 4; correct the relation"):
        read_marked(tmp_path / "d.json", LINKED)
    (tmp_path / "d.conll").write_text("a B-X\n\n")
    with pytest.raises(InputError, match=r"expected rows with 'relations' beside 'entities'.*--task spans"):
        read_marked(tmp_path / "d.conll", LINKED)
    (tmp_path / "e.json").write_text('[{"tokens": ["a"]}, 7]')
    with pytest.raises(InputError, match=r"e.json, row 2: expected \{.tokens"):
        read_marked(tmp_path / "e.json", LINKED)


def test_ids_name_one_entity_each(tmp_path: Path) -> None:
    def said(ids: list[object], ends: tuple[object, object]) -> str:
        entities = [{"id": i, "start": at, "end": at + 3, "label": "P"} for i, at in zip(ids, (0, 8), strict=True)]
        row = {"text": "Ada met Eve", "entities": entities}
        row["relations"] = [{"from_id": ends[0], "to_id": ends[1], "type": "met"}]
        (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(InputError) as caught:
            read_marked(tmp_path / "d.jsonl", LINKED)
        return str(caught.value)

    assert "line 1: expected each id of an entity once, got 7 again" in said([7, 7], (7, 7))
    assert "expected ids of entities" in said([1, 2], (True, 2))
