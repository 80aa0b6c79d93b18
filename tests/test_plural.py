import pytest

from en_bench.plural import counted


@pytest.mark.parametrize(("count", "told"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells"), (1280, "1,280 cells")])
def test_one_cell_and_several(count: int, told: str) -> None:
    assert counted(count, "cell") == told
