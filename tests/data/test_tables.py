"""CSV files that come with images: comments before the header, and lines as an editor counts them."""

import pytest

from en_bench.data.classes import read_class_map
from en_bench.data.tables import parse_csv, table_bytes
from en_bench.errors import InputError


def test_only_lines_before_the_header_are_comments():
    content = b"# flats by number\n\n# version: 2\npath,class\n#1/a.jpg,#1\nb.jpg,#2\n"
    rows = parse_csv(content, "x.csv", ["path", "class"])
    assert rows == [{"path": "#1/a.jpg", "class": "#1"}, {"path": "b.jpg", "class": "#2"}]
    assert [row.line for row in rows] == [5, 6]


def test_a_row_is_named_by_its_line_in_the_file():
    # lines 1 and 2 are comments, 3 the header, 4 and 5 one row, 6 empty
    content = b'# a\n# b\npath,class\n"two\nlines.jpg",cat\n\nb.jpg,dog\nc.jpg,\n'
    with pytest.raises(InputError, match=r"^x\.csv: line 8 lacks a value of path, class: complete it$"):
        parse_csv(content, "x.csv", ["path", "class"])
    rows = parse_csv(content.removesuffix(b"c.jpg,\n"), "x.csv", ["path", "class"])
    assert [(row["path"], row.line) for row in rows] == [("two\nlines.jpg", 4), ("b.jpg", 7)]


def test_line_ends_of_every_kind_and_a_byte_order_mark():
    for end in (b"\n", b"\r\n", b"\r"):
        content = b"\xef\xbb\xbf" + end.join([b"# version: 1", b"a,b", b"1,\xe2\x80\xa8x", b"2,y", b""])
        rows = parse_csv(content, "x.csv", ["a", "b"])
        assert [(row["a"], row["b"], row.line) for row in rows] == [("1", "\u2028x", 3), ("2", "y", 4)]


def test_classes_that_begin_with_a_number_sign_are_mapped_and_name_no_version(tmp_path):
    table = tmp_path / "map.csv"
    table.write_text("source,target\n#1,odd\n# version: 9,even\n")
    found = read_class_map(str(table))
    assert (found.mapping, found.version) == ({"#1": "odd", "# version: 9": "even"}, None)
    table.write_text("# numbers\n# of flats, version: 4\nsource,target\n#1,odd\n")
    assert read_class_map(str(table)).version == "4"


def test_the_signature_of_a_url_is_not_repeated():
    with pytest.raises(InputError, match=r"^https://host/map\.csv: not a file: correct the name$"):
        table_bytes("https://host/map.csv?X-Amz-Signature=SECRET")
