"""A table of values per sample, alone and filled by two real processes."""

from __future__ import annotations

import pytest
import torch

from en_bench.tasks.sample_table import SampleTable
from tests.norms.ranks import on_two_ranks


def test_what_was_written_is_read():
    table = SampleTable(5, (2,), fill=7.0)
    table.write(torch.tensor([3, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), step=0)
    assert table.read(torch.tensor([1, 3, 0])).tolist() == [[3.0, 4.0], [1.0, 2.0], [7.0, 7.0]]
    assert not table.values.requires_grad


def test_alone_merging_changes_nothing():
    table = SampleTable(3)
    table.write(torch.tensor([2]), torch.tensor([1.5]), step=4)
    table.merge()
    assert table.values.tolist() == [0.0, 0.0, 1.5]


def test_a_table_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(4,\), not of \(3,\)"):
        SampleTable(3).load_state_dict(SampleTable(4).state_dict())


def filled(rank: int) -> dict[str, torch.Tensor]:
    """Epoch 0: rank 0 has rows 0 and 1, rank 1 has row 2; epoch 1: rank 1 has row 0, rank 0 row 2; none has row 3."""
    table = SampleTable(4, (2,), fill=-1.0)
    epochs = [[{0: 10.0, 1: 11.0}, {2: 12.0}], [{2: 22.0}, {0: 20.0}]]
    for epoch, of_ranks in enumerate(epochs):
        for row, value in of_ranks[rank].items():
            before = table.read(torch.tensor([row]))
            table.write(torch.tensor([row]), before + value, step=2 * epoch + row % 2)
        if epoch == 0:
            table.merge()
            table.merge()  # again, as a checkpoint at the end of an epoch does
    stale = table.values.clone()
    table.merge()
    loaded = SampleTable(4, (2,))
    loaded.load_state_dict(table.state_dict())
    loaded.merge()
    return {"values": table.values, "stale": stale, "loaded": loaded.values, "written": table.written}


@pytest.mark.slow
def test_two_ranks_share_what_each_wrote_last(tmp_path):
    ranks = on_two_ranks(filled, tmp_path)
    expected = [[29.0, 29.0], [10.0, 10.0], [33.0, 33.0], [-1.0, -1.0]]
    for result in ranks:
        assert result["values"].tolist() == result["loaded"].tolist() == expected
        assert result["written"].tolist() == [2, 1, 2, -1]
    assert ranks[0]["stale"][0].tolist() == [9.0, 9.0]  # before the exchange it was not known there
