import pytest

from en_bench.duration import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (8.06, "8.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (130, "2 min 10 s"),
        (3600, "1 h 00 min"),
        (11100, "3 h 05 min"),
    ],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text
