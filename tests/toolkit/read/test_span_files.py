"""Files with marked spans: one small file a form, the same sentences in all; what is refused; and there and back."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.formats.marked import Mark, Reading
from manyhot.toolkit.read.formats.tagged import written_in_columns
from manyhot.toolkit.read.spans import read_blocks, read_marked
from manyhot.toolkit.spans.sentences import sentences_of

# Beyond the BMP, combining marks, right to left: offsets are code points.
TOKENS = [["Ada", "😀", "Lovelace", "met", "Cafe\u0301", "Rome"], ["\u05d0\u05d1", "in", "Rome"], ["Nothing", "here"]]
SPANS = [[(0, 3, "PER"), (5, 6, "LOC")], [(0, 1, "PER"), (2, 3, "LOC")], []]
TEXTS = [" ".join(tokens) for tokens in TOKENS]


def by_characters(row):
    places, at = [], 0
    for token in TOKENS[row]:
        places.append((at, at + len(token)))
        at += len(token) + 1
    return [(places[a][0], places[b - 1][1], kind) for a, b, kind in SPANS[row]]


def lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def columns(tags):
    return (
        "\n\n".join(
            "\n".join(f"{t}\t{g}" for t, g in zip(r, row, strict=True)) for r, row in zip(TOKENS, tags, strict=True)
        )
        + "\n"
    )


CHARS = [by_characters(row) for row in range(3)]
FILES = {
    "tokens.jsonl": lines(
        {"tokens": t, "entities": [list(s) for s in spans]} for t, spans in zip(TOKENS, SPANS, strict=True)
    ),
    "ner.jsonl": lines({"tokens": t, "ner": [list(s) for s in spans]} for t, spans in zip(TOKENS, SPANS, strict=True)),
    "objects.jsonl": lines(
        {"tokens": t, "spans": [{"start": a, "end": b, "type": k} for a, b, k in spans]}
        for t, spans in zip(TOKENS, SPANS, strict=True)
    ),
    "tags.jsonl": lines(
        [
            {"tokens": TOKENS[0], "ner_tags": ["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"]},
            {"tokens": TOKENS[1], "ner_tags": ["B-PER", "O", "B-LOC"]},
            {"tokens": TOKENS[2], "ner_tags": ["O", "O"]},
        ]
    ),
    "prodigy.jsonl": lines(
        {
            "text": t,
            "spans": [{"start": a, "end": b, "label": k, "text": t[a:b]} for a, b, k in spans],
            "answer": "accept",
        }
        for t, spans in zip(TEXTS, CHARS, strict=True)
    ),
    "doccano.jsonl": lines(
        {"text": t, "entities": [{"id": 1, "start_offset": a, "end_offset": b, "label": k} for a, b, k in spans]}
        for t, spans in zip(TEXTS, CHARS, strict=True)
    ),
    "doccano1.jsonl": lines(
        {"text": t, "labels": [list(s) for s in spans]} for t, spans in zip(TEXTS, CHARS, strict=True)
    ),
    "label.jsonl": lines({"text": t, "label": [list(s) for s in spans]} for t, spans in zip(TEXTS, CHARS, strict=True)),
    "studio.json": json.dumps(
        [
            {
                "data": {"text": t},
                "annotations": [
                    {"was_cancelled": True, "result": []},
                    {
                        "result": [
                            {"type": "labels", "value": {"start": a, "end": b, "text": t[a:b], "labels": [k]}}
                            for a, b, k in spans
                        ]
                        + [{"type": "choices", "value": {"choices": ["x"]}}]
                    },
                ],
            }
            for t, spans in zip(TEXTS, CHARS, strict=True)
        ]
    ),
    "min.json": json.dumps(
        [
            {"text": t, "label": [{"start": a, "end": b, "text": t[a:b], "labels": [k]} for a, b, k in spans]}
            for t, spans in zip(TEXTS, CHARS, strict=True)
        ]
    ),
    "bio.conll": "-DOCSTART- O\n\n"
    + columns([["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"], ["B-PER", "O", "B-LOC"], ["O", "O"]]).replace("\t", " "),
    "iob1.iob": columns([["I-PER", "I-PER", "I-PER", "O", "O", "I-LOC"], ["I-PER", "O", "I-LOC"], ["O", "O"]]),
    "x.bmes": columns([["B-PER", "M-PER", "E-PER", "O", "O", "S-LOC"], ["S-PER", "O", "S-LOC"], ["O", "O"]]),
    "x.bioes": columns([["B-PER", "I-PER", "E-PER", "O", "O", "S-LOC"], ["S-PER", "O", "S-LOC"], ["O", "O"]]),
    "bilou.bio": columns([["B-PER", "I-PER", "L-PER", "O", "O", "U-LOC"], ["U-PER", "O", "U-LOC"], ["O", "O"]]),
    "crlf.conll": columns(
        [["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"], ["B-PER", "O", "B-LOC"], ["O", "O"]]
    ).replace("\n", "\r\n"),
    "bom.conll": "\ufeff"
    + columns([["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"], ["B-PER", "O", "B-LOC"], ["O", "O"]]),
    # GermEval: a comment, a number, two layers.
    "germ.conll": "# source\n"
    + "\n\n".join(
        "\n".join(f"{i}\t{t}\t{g}\tO" for i, (t, g) in enumerate(zip(tokens, tags, strict=True), 1))
        for tokens, tags in zip(
            TOKENS, [["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"], ["B-PER", "O", "B-LOC"], ["O", "O"]], strict=True
        )
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_all_forms_say_the_same(name: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / (name + ".gz" * packed)
    content = FILES[name].encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    found = sentences_of(read_marked(path).rows, name)
    assert found.spans == SPANS
    # A text is cut into the same tokens here: they have spaces between.
    assert found.tokens == TOKENS
    blocks = [row for block, _ in read_blocks(path, Reading(), 2) for row in block]
    assert sentences_of(blocks, name).tokens == TOKENS


def test_what_was_found_is_said(tmp_path: Path) -> None:
    said = {}
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
        said[name] = read_marked(tmp_path / name).said[0]
    assert said["tokens.jsonl"] == "spans: entities, token offsets; 2 types"
    assert said["doccano1.jsonl"] == "spans: labels, character offsets; 2 types"
    assert said["studio.json"] == "spans: Label Studio, character offsets; 2 types"
    assert said["x.bmes"] == "spans: column 2, BMES tags; 2 types"
    assert said["iob1.iob"] == "spans: column 2, BIO tags, of which 4 spans begin with I, as in IOB1; 2 types"
    assert said["germ.conll"] == "spans: columns 3, 4, BIO tags; 2 types"


def test_layers_are_nested_spans_and_other_columns_are_none(tmp_path: Path) -> None:
    (tmp_path / "d.conll").write_text("University\tB-ORG\tO\nof\tI-ORG\tO\nRome\tI-ORG\tB-LOC\n")
    assert read_marked(tmp_path / "d.conll").rows[0].marks == [Mark(0, 3, "ORG"), Mark(2, 3, "LOC")]
    (tmp_path / "e.conll").write_text("Rome NNP B-NP B-LOC\nrocks VBZ B-VP O\n")
    assert read_marked(tmp_path / "e.conll").rows[0].marks == [Mark(0, 1, "LOC")]
    found = read_marked(tmp_path / "e.conll", Reading(tags=(3,)))
    assert found.rows[0].marks == [Mark(0, 1, "NP"), Mark(1, 2, "VP")]


def test_iob1_begins_a_span_after_another_type(tmp_path: Path) -> None:
    (tmp_path / "d.iob").write_text("a I-X\nb B-X\nc I-Y\nd I-Y\ne O\nf I-X\n")
    marks = read_marked(tmp_path / "d.iob").rows[0].marks
    assert marks == [Mark(0, 1, "X"), Mark(1, 2, "X"), Mark(2, 4, "Y"), Mark(5, 6, "X")]


def test_inclusive_ends_and_ids_of_tags(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"tokens": ["a", "b", "c"], "ner": [[0, 0, "X"], [1, 2, "Y"]]}\n')
    assert read_marked(tmp_path / "d.jsonl", Reading(end="inclusive")).rows[0].marks == [
        Mark(0, 1, "X"),
        Mark(1, 3, "Y"),
    ]
    (tmp_path / "t.jsonl").write_text('{"tokens": ["a", "b"], "ner_tags": [1, 2]}\n')
    named = Reading(label_names=["O", "B-X", "I-X"])
    assert read_marked(tmp_path / "t.jsonl", named).rows[0].marks == [Mark(0, 2, "X")]


def test_prodigys_own_tokens_and_rejected_rows(tmp_path: Path) -> None:
    row = {"text": "don't", "tokens": [{"text": "do", "start": 0, "end": 2}, {"text": "n't", "start": 2, "end": 5}]}
    records = [row | {"spans": [{"start": 2, "end": 5, "label": "NEG"}]}, row | {"answer": "reject", "spans": []}]
    (tmp_path / "d.jsonl").write_text(lines(records))
    file = read_marked(tmp_path / "d.jsonl")
    found = sentences_of(file.rows, "d")
    assert (found.tokens, found.spans) == ([["do", "n't"]], [[(1, 2, "NEG")]])
    assert file.said[1] == "1 row left out, rejected or ignored by an annotator"


REFUSED = {
    "end before start": (
        "d.jsonl",
        '{"tokens": ["a", "b"], "entities": [[1, 0, "X"]]}',
        "line 1, 'entities': expected a span inside its row of 2 tokens, got (1, 0, 'X'); offsets count from 0",
    ),
    "empty span": (
        "d.jsonl",
        '{"tokens": ["a", "b"], "entities": [[1, 1, "X"]]}',
        "where it is part of the span, as in DyGIE's files, type --end inclusive",
    ),
    "negative": (
        "d.jsonl",
        '{"tokens": ["a"], "entities": [[-1, 1, "X"]]}',
        "inside its row of 1 tokens, got (-1, 1, 'X')",
    ),
    "beyond": (
        "d.jsonl",
        '{"text": "ab", "spans": [{"start": 0, "end": 3, "label": "X"}]}',
        "inside its row of 2 characters, got (0, 3, 'X')",
    ),
    "text": (
        "d.jsonl",
        '{"text": "abc", "spans": [{"start": 0, "end": 1, "label": "X", "text": "ab"}]}',
        "expected the text 'ab' at (0, 1), as the span says, got 'a'; where the end is part of the span, type --end "
        "inclusive",
    ),
    "no type": (
        "d.jsonl",
        '{"tokens": ["a"], "entities": [[0, 1, 7]]}',
        "expected a span whose type is text, got (0, 1, 7)",
    ),
    "no whole numbers": (
        "d.jsonl",
        '{"tokens": ["a"], "entities": [["0", 1, "X"]]}',
        "with whole numbers as start and end",
    ),
    "two parts": ("d.jsonl", '{"tokens": ["a"], "entities": [[0, 1]]}', "expected a span [start, end, type]"),
    "blank token": (
        "d.jsonl",
        '{"tokens": ["a", " "], "entities": []}',
        "line 1: expected tokens that are text, got one that is only white space at position 1",
    ),
    "number as token": ("d.jsonl", '{"tokens": ["a", 3], "entities": []}', "got 3 at position 1"),
    "no tokens": ("d.jsonl", '{"words": ["a"]}', 'line 1: expected {"tokens": [...], "entities"'),
    "two forms": (
        "d.jsonl",
        '{"tokens": ["a"], "entities": []}\n{"text": "a", "spans": []}',
        "line 2: expected a row with 'tokens' as the rows before it",
    ),
    "lengths": (
        "d.jsonl",
        '{"tokens": ["a", "b"], "tags": ["O"]}',
        "expected as many tags as tokens, got 1 tags and 2 tokens",
    ),
    "ids": ("d.jsonl", '{"tokens": ["a"], "ner_tags": [1]}', "name what the numbers mean: --label-names FILE"),
    "no json": ("d.jsonl", '{"tokens": [', "line 1: expected one JSON object"),
    "prefix": (
        "d.conll",
        "a\tX-PER\n",
        "d.conll, line 1, column 2: expected O or a tag such as B-PER, a letter and the type of the span, got "
        "'X-PER'; the schemes known are BIO, BIOES, BILOU and BMES",
    ),
    "tag without type": ("d.conll", "a\tO\nb\tB\n", "line 2, column 2: expected O or a tag"),
    "two schemes": (
        "d.conll",
        "a\tB-X\nb\tI-X\nc\tM-X\n",
        "expected tags of one scheme, got tags that begin with B, I, M in one file",
    ),
    "bio among bioes": (
        "d.conll",
        "a\tB-X\nb\tE-X\n\nc\tB-X\nd\tI-X\n",
        "line 4: expected I-X or E-X at token 2 (tags are BIOES by the letters in the file), got 'O'",
    ),
    "one column": ("d.conll", "a\nb\n", "line 1: expected a token and its tags on every line, got a token alone"),
    "columns": ("d.conll", "a\tO\nb\tO\tO\n", "line 2: expected 2 columns as in the lines before, got 3"),
    "token alone": ("d.conll", "a\tO\nb\n", "line 2: expected 2 columns as in the lines before, got 1"),
    "studio": ("d.json", '{"a": 1}', "expected Label Studio's JSON"),
    "studio offsets": (
        "d.json",
        '[{"text": "ab", "label": [{"start": 0, "end": 9, "labels": ["X"]}]}]',
        "task 1: expected a span inside its row of 2 characters",
    ),
    "no format": ("d.csv", "a,b\n", "expected a file of spans in one of these formats"),
    "txt": ("d.txt", "a O\n", "a file in columns needs --format columns"),
    "empty": ("d.conll", "\n\n", "expected text, got an empty file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, tmp_path: Path) -> None:
    name, content, said = REFUSED[what]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_marked(tmp_path / name)
    assert said in str(caught.value)


@st.composite
def flat_rows(draw):
    """Draw rows of tokens with spans that do not overlap."""
    word = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Z")), min_size=1, max_size=4).filter(
        lambda t: t.strip() and not t.startswith("#") and t != "-DOCSTART-"
    )
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        tokens = draw(st.lists(word, min_size=1, max_size=8))
        cuts = sorted(draw(st.sets(st.integers(0, len(tokens)), max_size=6)))
        marks = [Mark(a, b, draw(st.sampled_from(["X", "Y-z"]))) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
        rows.append((tokens, marks))
    return rows


def tagged(tokens, marks, scheme):
    begin, inside, end, alone = {"BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU"}[scheme]
    tags = ["O"] * len(tokens)
    for a, b, kind in marks:
        letters = [alone] if b - a == 1 else [begin, *[inside] * (b - a - 2), end]
        tags[a:b] = [f"{letter}-{kind}" for letter in letters]
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)) + "\n"


@settings(max_examples=40, deadline=None)
@given(flat_rows(), st.sampled_from(["BIO", "BIOES", "BMES", "BILOU"]))
def test_columns_there_and_back(tmp_path_factory: pytest.TempPathFactory, rows, scheme: str) -> None:
    write = written_in_columns if scheme == "BIO" else lambda tokens, marks: tagged(tokens, marks, scheme)
    path = tmp_path_factory.mktemp("there") / "d.conll"
    path.write_bytes("".join(write(tokens, marks) for tokens, marks in rows).encode())
    back = read_marked(path)
    assert [(row.tokens, row.marks) for row in back.rows] == rows


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"data": {"text": "a"}, "annotations": 5}, "'annotations': expected a list as Label Studio writes it, got 5"),
        ({"data": {"text": "a"}, "annotations": [5]}, "'annotations': expected a list .*, got \\[5\\]"),
        ({"data": {"text": "a"}, "annotations": [{"result": [5]}]}, "'result': expected a list .*, got \\[5\\]"),
        ({"data": {"text": "a"}, "annotations": [{"result": {"a": 1}}]}, "'result': expected a list .*, got {'a': 1}"),
        ({"text": "a", "label": 5}, "'label': expected a list .*, got 5"),
        ({"text": "a", "label": "x"}, "'label': expected a list .*, got 'x'"),
    ],
)
def test_what_no_export_of_label_studio_has(tmp_path, task, said):
    (tmp_path / "d.json").write_text(json.dumps([task]))
    with pytest.raises(InputError, match=f"d.json, task 1, {said}; export it again"):
        read_marked(tmp_path / "d.json")


def test_tokens_of_a_text_follow_each_other(tmp_path):
    whole = [{"text": "Ada", "start": 0, "end": 3}, {"text": "met", "start": 4, "end": 7}]
    for tokens in (whole[::-1], [whole[0], whole[0]], [{"text": "Ad", "start": -7, "end": -5}], [5]):
        row = {"text": "Ada met", "tokens": tokens, "spans": [{"start": 0, "end": 3, "label": "PER"}]}
        (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
        if tokens == [5]:
            assert read_marked(tmp_path / "d.jsonl").rows[0].offsets is None
            continue
        with pytest.raises(InputError, match="one after the other, got"):
            read_marked(tmp_path / "d.jsonl")


@pytest.mark.parametrize("name", ["d.conll", "d.jsonl", "d.json"])
@pytest.mark.parametrize("content", ["caf\u00e9 O\n".encode("latin-1"), b"[\0\0\0"])
def test_what_is_no_utf8_is_told_without_an_option_that_spans_have_not(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="convert it: iconv -f ") as caught:
        read_marked(tmp_path / name)
    assert "--encoding" not in str(caught.value)


def test_a_long_key_is_no_long_sentence(tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps({"k" * 10**6: 1}) + "\n")
    with pytest.raises(InputError, match="got a row with 'kkk") as caught:
        read_marked(tmp_path / "d.jsonl")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("mark", ["\t", "\n", "\r"])
def test_columns_have_no_place_for_what_ends_them(mark):
    for tokens, kind in ((["a", f"b{mark}c"], "PER"), (["a", "b"], f"P{mark}ER")):
        with pytest.raises(InputError, match="without tabs and line ends"):
            written_in_columns(tokens, [Mark(0, 1, kind)])


def test_the_end_of_label_studio_may_be_inclusive_too(tmp_path):
    marks = [{"value": {"start": 0, "end": 2, "labels": ["PER"]}}]
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"data": {"text": "Ada met"}, "annotations": [{"result": marks}]}]))
    (row,) = read_marked(path, Reading(end="inclusive")).rows
    assert row.marks == [Mark(0, 3, "PER")]
    marks[0]["value"]["end"] = 0
    path.write_text(json.dumps([{"data": {"text": "A met"}, "annotations": [{"result": marks}]}]))
    with pytest.raises(InputError, match="type --end inclusive"):
        read_marked(path)
    (row,) = read_marked(path, Reading(end="inclusive")).rows
    assert row.marks == [Mark(0, 1, "PER")]
