import os
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.local.devices import (
    Slot,
    choose_gpus,
    default_threads,
    devices_wanted,
    fitting_slots,
    make_slots,
    slot_environment,
)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi of a machine with three GPUs, and no choice made by the environment."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "$@" > "$0.called"\nprintf "0\\n1\\n2\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_gpus_of_the_machine(smi: Path) -> None:
    assert choose_gpus(None) == choose_gpus("all") == ("0", "1", "2")
    assert choose_gpus("2,0") == ("2", "0")
    assert choose_gpus("none") == ()
    assert Path(f"{smi}.called").read_text() == "--query-gpu=index --format=csv,noheader\n"


def test_the_environment_chooses_before(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8a, 1")
    assert choose_gpus(None) == ("GPU-8a", "1")
    assert choose_gpus("1") == ("1",)
    with pytest.raises(InputError, match=r"^--gpus 0,1: no GPU 0 is visible here: there are GPU-8a,1$"):
        choose_gpus("0,1")
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert choose_gpus(None) is None
    assert not Path(f"{smi}.called").exists()


def test_a_broken_driver_is_no_gpu(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the driver'\nexit 9\n")
    assert choose_gpus(None) is None
    with pytest.raises(InputError, match="--gpus all: no GPU is visible"):
        choose_gpus("all")
    with pytest.raises(InputError, match=r"--gpus 0: no GPU 0 is visible here: there are none"):
        choose_gpus("0")


@pytest.mark.parametrize("wanted", ["", "0,", "0,0", ","])
def test_a_broken_list_is_refused(smi: Path, wanted: str) -> None:
    with pytest.raises(InputError, match="give each GPU once"):
        choose_gpus(wanted)


@pytest.mark.parametrize(
    ("number", "gpus", "slots"),
    [
        (None, None, [("1", "")]),
        (3, (), [("1", ""), ("2", ""), ("3", "")]),
        (None, "01", [("GPU 0", "0"), ("GPU 1", "1")]),
        (1, "01", [("GPU 0,1", "01")]),
        (2, "01234", [("GPU 0,1,2", "012"), ("GPU 3,4", "34")]),
        (3, "01", [("GPU 0 #1", "0"), ("GPU 1 #1", "1"), ("GPU 0 #2", "0")]),
    ],
)
def test_slots_share_out_the_gpus(number: int | None, gpus: str | None, slots: list[tuple[str, str]]) -> None:
    made = make_slots(number, None if gpus is None else tuple(gpus))
    assert made == [Slot(name, tuple(own)) for name, own in slots]


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, None),
        ({"devices": "auto"}, None),
        ({"devices": -1}, None),
        ({"devices": 1}, 1),
        ({"devices": "4"}, 4),
        ({"devices": [0]}, 1),
        ({"devices": [0, 3]}, 4),
        ({"devices": "0,1"}, 2),
        ({"devices": "2,"}, 3),
        ({"devices": True}, 1),
    ],
)
def test_devices_that_a_cell_wants(trainer: dict[str, object], wanted: int | None) -> None:
    assert devices_wanted({"trainer": trainer}) == wanted
    assert devices_wanted({}) is None


def test_slots_that_fit() -> None:
    four = make_slots(None, tuple("0123"))
    assert fitting_slots(four, [2, 0, 1, 3], 1) == (2,)
    assert fitting_slots(four, [3, 1], 2) == (1, 3)
    assert fitting_slots(four, [3, 1], 3) is None
    assert fitting_slots(four, [0, 1, 2, 3], None) == fitting_slots(four, [0, 1, 2, 3], 9) == (0, 1, 2, 3)
    assert fitting_slots(four, [0, 1, 2], None) is None
    shared = make_slots(4, tuple("01"))
    assert fitting_slots(shared, [0, 2], 2) is None  # the same GPU twice
    assert fitting_slots(shared, [0, 2, 3], 2) == (0, 3)
    groups = make_slots(2, tuple("0123"))
    assert fitting_slots(groups, [0, 1], 2) == (0,)
    assert fitting_slots(groups, [0, 1], 3) == (0, 1)
    processors = make_slots(3, None)
    assert fitting_slots(processors, [0, 1, 2], None) == (0,)
    assert fitting_slots(processors, [0, 2], 2) == (0, 2)
    assert fitting_slots(processors, [0, 2], 8) is None
    assert fitting_slots(processors, [0, 1, 2], 8) == (0, 1, 2)


def test_environment_of_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    slots = make_slots(None, tuple("013"))
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert slot_environment(slots[1:], tuple("013"), None) == {"CUDA_VISIBLE_DEVICES": "1,3", **order}
    assert slot_environment([Slot("1")], (), 4) == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4", **order}
    assert slot_environment([Slot("1")], None, None) == {}


def test_threads_share_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)), raising=False)
    assert [default_threads(slots, {}) for slots in (1, 2, 3, 20)] == [None, 3, 2, 1]
    assert default_threads(3, {"OMP_NUM_THREADS": "5"}) is None
