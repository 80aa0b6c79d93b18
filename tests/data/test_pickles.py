"""Files of arrays from strangers: every form of them is read, and nothing in them is run."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from en_bench.data import pickles
from en_bench.data.pickles import read_mapping
from en_bench.errors import InputError

LABELS = np.array([3, 1, 4, 1, 5])


def saved(value: object, how: str) -> bytes:
    file = io.BytesIO()
    if how == "torch":
        torch.save(value, file)
    elif how == "npy":
        np.save(file, value, allow_pickle=True)
    else:
        file.write(pickle.dumps(value, protocol=int(how)))
    return file.getvalue()


def as_numpy_1(content: bytes) -> bytes:
    return content.replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("how", ["0", "1", "2", "3", "4", "5", "npy", "torch"])
def test_a_dictionary_of_arrays_is_read_from_every_form(how):
    square = np.arange(6, dtype=">i4").reshape(2, 3)
    value = {"labels": LABELS, b"square": square, "turned": square.T, "rate": np.float32(0.5), "names": ["a", b"b"]}
    content = saved(value, how)
    for written in (content, as_numpy_1(content)) if how in ("0", "1", "2", "3") else (content,):
        found = read_mapping(written, "x")
        assert list(found) == ["labels", "square", "turned", "rate", "names"]
        assert found["labels"].dtype == np.int64 and found["labels"].tolist() == [3, 1, 4, 1, 5]
        assert found["square"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert found["rate"] == 0.5
        assert found["names"] == ["a", b"b"]


def test_tensors_and_ordered_dictionaries_are_read():
    value = OrderedDict(labels=torch.tensor([[3, 1], [4, 1]]), part=torch.arange(10)[4:7], small=torch.ones(2).half())
    found = read_mapping(saved(value, "torch"), "x")
    assert found["labels"].tolist() == [[3, 1], [4, 1]]
    assert found["part"].tolist() == [4, 5, 6]
    assert found["small"].tolist() == [1, 1]


def test_columns_of_a_structured_array_are_read():
    table = np.array([(1, 2), (3, 4)], dtype=[("clean_label", "i8"), ("noisy_label", "i8")])
    found = read_mapping(saved(table, "npy"), "x")
    assert {name: values.tolist() for name, values in found.items()} == {"clean_label": [1, 3], "noisy_label": [2, 4]}


def test_the_pickle_of_python_2_is_read():
    # {'data': array(shape (1, 2), uint8), 'labels': [7]} as Python 2.7 and numpy 1.x of CIFAR's time wrote it
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02(cnumpy\nndarray\nq\x03K\x00\x85U\x01bt\x52"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x04(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x05\xfftb"
    )
    found = read_mapping(b"\x80\x02}q\x01(U\x04data" + array + b"U\x06labels]K\x07au.", "x")
    assert found["data"].tolist() == [[5, 255]] and found["data"].dtype == np.uint8
    assert found["labels"] == [7]


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def test_no_command_is_run(tmp_path):
    mark = tmp_path / "run"
    for how in ("0", "2", "4", "5", "npy", "torch"):
        for value in ({"clean_label": Calls(os.system, f"touch {mark}")}, Calls(Path.touch, mark)):
            with pytest.raises(InputError) as error:
                read_mapping(saved(value, how), "evil.pt")
            assert str(error.value).startswith("evil.pt: asks to load '")
            assert "nothing was run" in str(error.value) and "\n" not in str(error.value)
            assert not mark.exists()
    with pytest.raises(InputError, match=r"asks to load '(posix|nt)\.system'"):
        read_mapping(saved({"a": Calls(os.system, "true")}, "2"), "x")


def test_an_array_of_objects_hides_no_pickle(tmp_path):
    hidden = np.array([Calls(os.system, f"touch {tmp_path / 'run'}"), 1], dtype=object)
    for how in ("2", "5", "npy", "torch"):
        with pytest.raises(InputError, match="asks to load"):
            read_mapping(saved({"a": hidden}, how), "x")
        inner = np.array([pickle.dumps(Calls(os.system, "true")), 1], dtype=object)
        with pytest.raises(InputError, match="an array of objects, not of numbers"):
            read_mapping(saved({"a": inner}, how), "x")
    table = np.array([(1, "x")], dtype=[("a", "i8"), ("b", "O")])
    with pytest.raises(InputError, match="holds objects among its columns"):
        read_mapping(saved(table, "npy"), "x")
    assert not (tmp_path / "run").exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR(K\x03X\x01\x00\x00\x00|NNNK\x00K\x00K\x00tb"
HUGE = b"\x8a\x08" + struct.pack("<q", 2**44)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # The state asks for 2**44 numbers and brings one; asked of numpy itself this is 16 TB.
        (
            RECONSTRUCT + b"(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01" + HUGE + b"\x85" + DTYPE + b"\x89C\x01ztb",
            r"an array of shape \(17592186044416,\) with 1 numbers",
        ),
        # An array without a state: numpy itself would make the shape of the call.
        (RECONSTRUCT + b"(cnumpy\nndarray\n" + HUGE + b"\x85C\x01btR", "an array of objects, not of numbers"),
        # The unpickler's memo would grow to 2**31 entries, 32 GB.
        (b"K\x01r" + struct.pack("<I", 2**31 - 1), "a memo index 2147483647 in a file of"),
        (b"K\x01p2147483647\n", "a memo index 2147483647 in a file of"),
        # Encoded over and over, a little text doubles each time; and a codec is a module to import.
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00zX\x03\x00\x00\x00hextR", "an encoding other than latin1"),
        # Attributes of a stand-in would change every file that is read later.
        (b"c_codecs\nencode\nN}X\x05\x00\x00\x00_workK\x01s\x86b", "sets attributes"),
        (b"c_codecs\nencode\n}X\x05\x00\x00\x00_workK\x01sb", "no attribute '__dict__'"),
        (b"cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb", "no attribute '__dict__'"),
        (b"Pelsewhere\n", "refers to something outside the file"),
        (b"\x82\x01", "unregistered extension code 1"),
        (RECONSTRUCT + b"(cnumpy\ndtype\nK\x00\x85C\x01btR", "an array of a kind of its own"),
    ],
)
def test_hostile_pickles_end_in_one_line(body, message):
    with pytest.raises(InputError, match=message) as error:
        read_mapping(b"\x80\x02}X\x01\x00\x00\x00a" + body + b"s.", "evil.pkl")
    assert str(error.value).startswith("evil.pkl: ") and "\n" not in str(error.value)
    assert read_mapping(saved({"labels": LABELS}, "2"), "x")["labels"].tolist() == LABELS.tolist()


@pytest.mark.parametrize("how", ["0", "2", "4", "5", "npy", "torch"])
def test_cut_off_anywhere_ends_in_one_line(how):
    whole = saved({"labels": LABELS}, how)
    for end in range(0, len(whole), 1 if len(whole) < 400 else 23):
        with pytest.raises(InputError) as error:
            read_mapping(whole[:end], "cut")
        assert str(error.value).startswith("cut: ") and "\n" not in str(error.value)
    with pytest.raises(InputError, match="cut: an empty file: download it again"):
        read_mapping(b"", "cut")


@pytest.mark.parametrize(
    ("value", "how", "message"),
    [
        (LABELS, "npy", "it holds an array without names, not a dictionary of arrays"),
        (LABELS, "2", "it holds an array without names"),
        ([1, 2], "2", "it holds a value of type list without names"),
        (torch.arange(3), "torch", "it holds an array without names"),
        ({1: LABELS}, "2", "a value of type int where a name must stand"),
        ({"a": np.array(["x", "y"])}, "2", "an array of type 'U1', not of numbers"),
        ({"a": np.array([1j])}, "2", "an array of type 'c16', not of numbers"),
        ({"a": torch.arange(6).reshape(2, 3).T}, "torch", "a tensor that is not contiguous"),
        ({"a": np.array(5, dtype="M8[s]")}, "2", "structures|not of numbers"),
    ],
)
def test_what_is_no_dictionary_of_numbers_is_named(value, how, message):
    with pytest.raises(InputError, match=message):
        read_mapping(saved(value, how), "x")


def test_an_npy_header_that_asks_for_too_much_is_refused():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": [("a", "<i8")], "fortran_order": False, "shape": (2**44,)})
    with pytest.raises(InputError, match="its header tells of 17,592,186,044,416 numbers"):
        read_mapping(file.getvalue(), "x")


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_zips_that_are_no_label_files(monkeypatch):
    with pytest.raises(InputError, match=r"a zip with 0 files data\.pkl"):
        read_mapping(zipped({"x.txt": b"hello"}), "x.pt")
    monkeypatch.setattr(pickles, "MAX_UNPACKED", 1000)
    with pytest.raises(InputError, match=r"x\.pt: its members unpack to more than 1,000 bytes"):
        read_mapping(zipped({"archive/data.pkl": b"0" * 1001}), "x.pt")
    bent = pickle.dumps({"labels": LABELS}, 2)
    assert read_mapping(zipped({"archive/data.pkl": bent}), "x.pt")["labels"].tolist() == [3, 1, 4, 1, 5]


def claiming(content: bytes, true: int, claimed: int) -> bytes:
    """A zip in which every size of `true` bytes is said to be `claimed`."""
    assert content.count(struct.pack("<I", true)) == 2, "once beside the member, once in the directory"
    return content.replace(struct.pack("<I", true), struct.pack("<I", claimed))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_packed_as_torch_never_does_is_not_unpacked(method):
    small = zipped({"archive/data.pkl": pickle.dumps({"labels": LABELS}, 2)}, method)
    with pytest.raises(
        InputError, match=r"x\.pt: 'archive/data\.pkl' is packed in a way that torch\.save does not use"
    ):
        read_mapping(small, "x.pt")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_claims_fewer_bytes_than_it_holds_takes_no_memory(method):
    bomb = claiming(zipped({"archive/data.pkl": bytes(3 * 10**8)}, method), 3 * 10**8, 1000)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"x\.pt: .*(packed in a way|CRC|not a whole)"):
        read_mapping(bomb, "x.pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23  # bytes


def test_one_member_for_many_tensors_counts_each_time(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_UNPACKED", 10_000)
    for tensors, refused in ((4, False), (40, True)):
        storage = torch.arange(100)
        content = saved({f"t{number}": storage[number:] for number in range(tensors)}, "torch")
        if refused:
            with pytest.raises(InputError, match=r"x\.pt: its members unpack to more than 10,000 bytes"):
                read_mapping(content, "x.pt")
        else:
            assert read_mapping(content, "x.pt")["t3"][0] == 3
