"""Parsing CSV and JSON Lines so that each line is in a row, or the file is refused."""

import bz2
import gzip
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from catalog_batch.errors import ManifestError
from catalog_batch.ingest import manifest_text
from catalog_batch.ingest.manifest_text import TextManifest, parse_text_manifest

HEADER = "product_id,image_uri,title\n"
Parse = Callable[..., TextManifest]
Rows = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """Return what writes a text or bytes to a file of some name and parses it."""

    def write_and_parse(content: str | bytes, name: str = "m.csv") -> TextManifest:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return parse_text_manifest(str(path), str(tmp_path / "parsed"))

    return write_and_parse


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Return what reads the rows that were parsed last, without their nulls."""

    def read() -> list[dict[str, Any]]:
        table = ds.dataset(sorted((tmp_path / "parsed").glob("*.parquet"))).to_table()
        return [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]

    return read


def defects(rows: Rows) -> list[str | None]:
    return [row.get("_defect") for row in rows()]


def test_a_csv_becomes_numbered_rows_of_strings(parse: Parse, rows: Rows) -> None:
    found = parse(HEADER + "p1,a.jpg,Red apple\n\np2,b.jpg,\n")
    assert found == TextManifest(["product_id", "image_uri", "title"], 2, 0, "utf-8")
    assert rows() == [
        {"c0": "p1", "c1": "a.jpg", "c2": "Red apple", "_line": 2},
        {"c0": "p2", "c1": "b.jpg", "_line": 4},
    ]


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("cp1252", "cp1252"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_are_told_apart(
    parse: Parse, rows: Rows, codec: str, encoding: str, end: str
) -> None:
    text = f"product_id,image_uri{end}p1,ñandú.jpg{end}p2,été.jpg{end}"
    found = parse(text.encode(codec))
    assert (found.columns, found.bad_rows) == (["product_id", "image_uri"], 0)
    assert found.encoding == encoding
    assert [row["c1"] for row in rows()] == ["ñandú.jpg", "été.jpg"]


def test_big_endian_utf_16_is_read_too(parse: Parse, rows: Rows) -> None:
    parse(b"\xfe\xff" + (HEADER + "p1,ñ.jpg,x\n").encode("utf-16-be"))
    assert [row["c1"] for row in rows()] == ["ñ.jpg"]


def test_reading_as_cp1252_is_warned_of(
    parse: Parse, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("catalog_batch"), "propagate", True)
    parse((HEADER + "p1,ñ.jpg,x\n").encode("latin-1"))
    assert "is read as cp1252" in caplog.text


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_bad_byte_among_utf_8_costs_one_row(parse: Parse, rows: Rows, name: str) -> None:
    lines = {
        "m.csv": b"product_id,title\np1,\xc3\xb1\np2,a\xff\np3,b\n",
        "m.jsonl": b'{"product_id":"p1","title":"\xc3\xb1"}\n\n'
        b'{"product_id":"p2","title":"a\xff"}\n{"product_id":"p3","title":"b"}\n',
    }
    assert parse(lines[name], name).bad_rows == 1
    assert [row["c1"] for row in rows()] == ["ñ", "a\ufffd", "b"]
    assert defects(rows) == [None, "line 3 is not UTF-8", None]


def test_a_lone_surrogate_in_utf_16_costs_one_row(parse: Parse, rows: Rows) -> None:
    text = HEADER + "p1,a.jpg,\ud800\np2,b.jpg,x\n"
    parse(b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass"))
    assert defects(rows) == ["line 2 is not UTF-16", None]


def test_a_truncated_utf_16_file_is_refused(parse: Parse) -> None:
    with pytest.raises(ManifestError, match="is not UTF-16: truncated data"):
        parse((HEADER + "p1,a.jpg,x").encode("utf-16")[:-1])


def test_rows_of_another_length_keep_their_first_cells(parse: Parse, rows: Rows) -> None:
    assert parse(HEADER + "p1,a.jpg\np2,b.jpg,x,y\n").bad_rows == 2
    assert rows() == [
        {
            "c0": "p1",
            "c1": "a.jpg",
            "_defect": "line 2 has 2 cells, the header has 3",
            "_line": 2,
        },
        {
            "c0": "p2",
            "c1": "b.jpg",
            "c2": "x",
            "_defect": "line 3 has 4 cells, the header has 3",
            "_line": 3,
        },
    ]


def test_quoted_cells_hold_line_breaks_quotes_and_commas(parse: Parse, rows: Rows) -> None:
    parse(HEADER + 'p1,a.jpg,"A ""fine"",\r\n\nred apple"\np2,b.jpg,6" pan\n')
    assert [(row["c2"], row["_line"]) for row in rows()] == [
        ('A "fine",\r\n\nred apple', 2),
        ('6" pan', 5),
    ]


def test_a_stray_quote_costs_its_line_and_keeps_the_cells_before(parse: Parse, rows: Rows) -> None:
    parse(HEADER + 'p1,a.jpg,"6" pan"\np2,b.jpg,x\n')
    assert rows() == [
        {
            "c0": "p1",
            "c1": "a.jpg",
            "_defect": "line 2 is no CSV: ',' expected after '\"'",
            "_line": 2,
        },
        {"c0": "p2", "c1": "b.jpg", "c2": "x", "_line": 3},
    ]


def test_an_unclosed_quote_swallows_no_rows_after_it(parse: Parse, rows: Rows) -> None:
    text = HEADER + 'p1,a.jpg,"6 inch\np2,b.jpg,x\np3,c.jpg,"y"\np4,d.jpg,z\n'
    assert parse(text).rows == 4
    assert [row["c0"] for row in rows()] == ["p1", "p2", "p3", "p4"]
    assert defects(rows) == [
        "lines 2 to 4 are no CSV: ',' expected after '\"'",
        None,
        None,
        None,
    ]


def test_a_quote_that_nothing_closes_is_refused(parse: Parse) -> None:
    with pytest.raises(ManifestError, match=r"begins at line 3 of .* is never closed"):
        parse(HEADER + 'p1,a.jpg,x\np2,b.jpg,"6 inch\np3,c.jpg,y\n')


def test_nul_bytes_cost_a_row(parse: Parse, rows: Rows) -> None:
    parse(HEADER + "p1,a\0.jpg,x\np2,b.jpg,y\n")
    assert defects(rows) == ["line 2 holds a NUL byte", None]
    assert rows()[0]["c1"] == "a\ufffd.jpg"


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"a,b,a\n", r"line 1 of .* names \['a'\] more than once"),
        (b"\n\na,,b\n", "line 3 of .* has no name for column 2"),
        (b'a,"b"c\n', "is no CSV"),
        (b"a,\0b\n", "holds a NUL byte"),
        (b"a,b\xff\np1,\xc3\xb1\n", "is not UTF-8"),
        (b",".join(b"c%d" % i for i in range(2_001)), "more than 2,000 columns"),
    ],
)
def test_an_unusable_header_is_refused(parse: Parse, header: bytes, problem: str) -> None:
    with pytest.raises(ManifestError, match=problem):
        parse(header)


def test_names_that_differ_in_case_or_look_like_ours_are_kept(parse: Parse, rows: Rows) -> None:
    assert parse("title,Title,_defect,c0\na,b,c,d\n").columns == ["title", "Title", "_defect", "c0"]
    assert rows() == [{"c0": "a", "c1": "b", "c2": "c", "c3": "d", "_line": 2}]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"product_id,image_uri\n", mtime=0), "gzip"),
        (bz2.compress(b"product_id,image_uri\n"), "bzip2"),
        (b"\x28\xb5\x2f\xfd...", "zstd"),
        (b"PK\x03\x04...", "zip"),
    ],
)
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_compressed_file_is_never_unpacked(
    parse: Parse, content: bytes, kind: str, name: str
) -> None:
    with pytest.raises(ManifestError, match=rf"is compressed \({kind}\); unpack it first"):
        parse(content, name)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_a_header_or_a_row_is_empty(parse: Parse, content: bytes, name: str) -> None:
    with pytest.raises(ManifestError, match=f"{name}' is empty"):
        parse(content, name)


def test_a_header_alone_has_no_rows(parse: Parse, rows: Rows) -> None:
    assert parse(HEADER).rows == 0
    assert rows() == []


def test_a_parquet_file_with_a_csv_name_is_refused(parse: Parse) -> None:
    with pytest.raises(ManifestError, match="is a Parquet file; name it"):
        parse(b"PAR1....")


def test_a_folder_and_nothing_are_no_text_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is no file"):
        parse_text_manifest(str(tmp_path), str(tmp_path / "parsed"))
    with pytest.raises(ManifestError, match="is missing"):
        parse_text_manifest((tmp_path / "no.csv").as_uri(), str(tmp_path / "parsed"))


def test_what_an_earlier_run_parsed_is_replaced(parse: Parse, rows: Rows, tmp_path: Path) -> None:
    parse(HEADER + "p1,a.jpg,x\n")
    (tmp_path / "parsed" / "part-00007.parquet").write_bytes(b"left behind")
    parse(HEADER + "p2,b.jpg,y\n")
    assert [row["c0"] for row in rows()] == ["p2"]


def test_json_values_become_text_and_null_stays_null(parse: Parse, rows: Rows) -> None:
    found = parse(
        '{"product_id": 7, "ok": true, "kg": 1.5, "tags": ["ñ", {"a": 1}], "title": null}\n'
        '{"title": "A\\nB", "later": ""}\n',
        "m.json",
    )
    assert found.columns == ["product_id", "ok", "kg", "tags", "title", "later"]
    assert rows() == [
        {"c0": "7", "c1": "true", "c2": "1.5", "c3": '["ñ",{"a":1}]', "_line": 1},
        {"c4": "A\nB", "c5": "", "_line": 2},
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a": "p2", "b', "Unterminated string starting at character 13"),
        ('{"a": }', "Expecting value at character 7"),
        ('["p2"]', "it is another JSON value"),
        ("7", "it is another JSON value"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
        ('{"b": {"x": 1, "x": 2}}', "a key is there twice"),
        ('{"": 1}', "a key is empty"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": ' + "[" * 100_000, "too deeply nested"),
        ('{"a": "p2"} {"a": "p3"}', "Extra data at character 13"),
    ],
)
def test_a_line_that_is_no_json_object_is_a_bad_row(
    parse: Parse, rows: Rows, line: str, problem: str
) -> None:
    found = parse(f'{{"a": "p1"}}\n{line}\n{{"a": "p3"}}\n', "m.jsonl")
    assert (found.rows, found.bad_rows, found.columns) == (3, 1, ["a"])
    assert defects(rows) == [None, f"line 2 is no JSON object: {problem}", None]


def test_a_truncated_last_line_is_a_bad_row(parse: Parse, rows: Rows) -> None:
    parse('{"a": "p1"}\n{"a": "p', "m.jsonl")
    assert [defect is None for defect in defects(rows)] == [True, False]


@pytest.mark.parametrize("escape", ["\\ud800", "\\u0000"])
def test_an_escape_that_is_no_character_costs_a_row(parse: Parse, rows: Rows, escape: str) -> None:
    parse(f'{{"a": "p1 \\ud83d\\ude00"}}\n{{"a": "p2{escape}"}}\n', "m.jsonl")
    assert [row["c0"] for row in rows()] == ["p1 😀", "p2\ufffd"]
    assert defects(rows) == [None, "line 2 holds an escape that is no character"]


@pytest.mark.parametrize("content", ['[{"a": 1},\n{"a": 2}]', '[\n{"a": 1}\n]'])
def test_a_json_array_is_refused(parse: Parse, content: str) -> None:
    with pytest.raises(ManifestError, match=r"is one JSON array\. Write one object per line"):
        parse(content, "m.json")


def test_json_lines_that_are_all_bad_are_refused_with_the_first(parse: Parse) -> None:
    with pytest.raises(ManifestError, match="line 1 is no JSON object: Expecting property name"):
        parse('{\n"a": 1\n}\n', "m.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "a,b\np1,{}\np2,x\n"),
        ("m.jsonl", '{{"a":"p1"}}\n{{"b":"{}"}}\n{{"a":"p3"}}\n'),
    ],
)
def test_an_endless_line_costs_one_row(
    parse: Parse, rows: Rows, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.setattr(manifest_text, "_MAX_ROW", 30)
    assert parse(content.format("x" * 100), name).bad_rows == 1
    assert "longer than 30 characters" in str(defects(rows))
    assert defects(rows)[-1] is None


def test_an_endless_line_in_quotes_swallows_no_rows(
    parse: Parse, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_text, "_MAX_ROW", 30)
    parse('a,b\np1,"x\n' + "y" * 100 + "\np2,x\np3,y\n")
    assert [row.get("c0") for row in rows()] == ["p1", None, "p2", "p3"]
    assert [defect is None for defect in defects(rows)] == [False, False, True, True]


def test_an_endless_row_of_many_lines_is_refused(
    parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_text, "_MAX_ROW", 30)
    with pytest.raises(ManifestError, match=r"begins at line 2 .* is longer than 30 characters"):
        parse('a,b\np1,"x\n' + "p2,y\n" * 10)


def test_many_parts_hold_all_rows_in_order(
    parse: Parse, rows: Rows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(manifest_text, "_PART_ROWS", 3)
    assert parse("a\n" + "".join(f"{number}\n" for number in range(10))).rows == 10
    assert [row["c0"] for row in rows()] == [str(number) for number in range(10)]
    assert len(list((tmp_path / "parsed").iterdir())) == 4
