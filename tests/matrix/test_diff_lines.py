"""What `matrix diff` prints, to the character: both sides below each other over all cells."""

from en_bench.matrix.diff import Compared, Difference, Verdict
from en_bench.matrix.diff_lines import aligned, cell_lines

NLL = ("validate", "typeset", "metrics", "nll")
TOP1 = ("validate", "typeset", "metrics", "top1")


def test_columns_of_all_cells_together() -> None:
    found = [
        Compared(
            "523efe9eb5698167",
            "BatchNorm/handwritten/0",
            Verdict.DIFFERS,
            (Difference(TOP1, 0.65455, 0.65578456), Difference(NLL, 11.3818, 1.38303456), Difference(NLL, 0.5, None)),
        ),
        Compared("acb785222e498ca9", "BatchNorm/typeset/0", Verdict.EQUAL),
        Compared("788634dd6d261c0f", "BatchNorm/typeset/1", Verdict.OTHER_SETTINGS, (Difference(("lr",), None, 1e-5),)),
        Compared(
            "b36b5b074394c79f",
            "EN/typeset/0",
            Verdict.DIFFERS,
            (
                Difference(("fit", "epochs"), 100, 90),
                Difference(("reason",), "RuntimeError: the loss is not finite in step 12", "another"),
            ),
        ),
        Compared("fdbade19a0539800", "EN/typeset/1", Verdict.ONLY_B),
    ]
    assert list(cell_lines(found)) == [
        "differs         BatchNorm/handwritten/0  523efe9eb5698167",
        "                  validate typeset metrics top1    0.65455 |  0.65578456  +0.00123",
        "                  validate typeset metrics nll    11.3818  |  1.38303456  -10",
        "                  validate typeset metrics nll     0.5     | none",
        "equal           BatchNorm/typeset/0      acb785222e498ca9",
        "other settings  BatchNorm/typeset/1      788634dd6d261c0f",
        "                  lr                             none      |  1e-05",
        "differs         EN/typeset/0             b36b5b074394c79f",
        "                  fit epochs                     100       | 90           -10",
        "                  reason                         RuntimeError: the loss is not finite in step 12 | another",
        "only in B       EN/typeset/1             fdbade19a0539800",
    ]


def test_nothing_to_compare() -> None:
    assert list(cell_lines([])) == [] == aligned([])


def test_numbers_stand_by_their_decimal_points_with_their_signs() -> None:
    rows = [("a", "-1.5", "12", "+13.5"), ("longer", "10", "-0.25", "-10.2"), ("b", "nan", "3e+20", "")]
    assert aligned(rows) == [
        "a       -1.5 | 12      +13.5",
        "longer  10   | -0.25   -10.2",
        "b       nan  |  3e+20",
    ]
