"""The four passes in C++, compiled at first use and kept in the user's cache folder.

The source needs a C++17 compiler and nothing else, neither PyTorch's headers nor Python's, so it compiles in about five
seconds, serves every version of both, and every shape.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from en_bench.errors import EnBenchWarning
from en_bench.norms.maps import is_channels_last
from en_bench.norms.moments import table_dtype

SOURCE = Path(__file__).parent / "cpp" / "native.cpp"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
_PASSES = {"moments": 3, "affine": 5, "sums": 5, "gradient": 7}  # and how many tensors each takes
_TIME_LIMIT_S = 120


class CompilerError(Exception):
    """Why there is no compiled library."""


def serves(dtype: torch.dtype) -> bool:
    """Whether the passes are to be had for maps of this dtype; the first call compiles, and warns where it cannot."""
    return _function("moments", dtype) is not None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, var = _table(x), _table(x)
    _call("moments", x, x, mean, var)
    return mean, var


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y = torch.empty_like(x)
    _call("affine", x, x, mean, scale, shift, y)
    return y


def sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    sum_dy, sum_dy_centred = _table(x), _table(x)
    _call("sums", x, dy, x, mean, sum_dy, sum_dy_centred)
    return sum_dy, sum_dy_centred


def gradient(dy: Tensor, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    dx = torch.empty_like(x)
    _call("gradient", x, dy, x, mean, a, b, c, dx)
    return dx


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which OpenMP's regions that this thread starts have one thread; none without the library."""
    lib = _library()
    if lib is None:
        yield
        return
    before = lib.set_threads(1)
    try:
        yield
    finally:
        lib.set_threads(before)


def _table(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=table_dtype(x))


def _call(name: str, x: Tensor, *tensors: Tensor) -> None:
    n, c = x.shape[:2]
    positions = x.numel() // (n * c)
    function = _function(name, x.dtype)
    assert function is not None
    function(
        lies_as_columns(x, positions),
        n,
        c,
        positions,
        torch.get_num_threads(),
        *(tensor.data_ptr() for tensor in tensors),
    )


def lies_as_columns(x: Tensor, positions: int) -> bool:
    """Whether the channels of a position are neighbours."""
    # One position per channel lies both ways; as columns it is one vector, as rows many of one value.
    return positions == 1 or (is_channels_last(x) and not x.is_contiguous())


def run_program(name: str, dtype: torch.dtype, block: ctypes.Structure) -> None:
    """`forward` or `backward` of en_bench.norms.programs, for maps of `dtype`."""
    function = _function(name, dtype)
    assert function is not None
    function(ctypes.byref(block))


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None] | None:
    """A pass, or half of a program, for maps of `dtype`, or None where there is none."""
    function = getattr(_library(), f"{name}_{str(dtype).removeprefix('torch.')}", None)
    if function is not None and name in _PASSES:
        sizes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
        function.argtypes = (*sizes, *(ctypes.c_void_p,) * _PASSES[name])
    if function is not None:
        function.restype = None
    return function


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(build()))
    except (CompilerError, OSError) as problem:
        warnings.warn(
            f"normalisers run in plain PyTorch, some times slower: {problem}. Cure: install a C++17 compiler (g++) or "
            "name one in CXX",
            EnBenchWarning,
            stacklevel=2,
        )
        return None


def build() -> Path:
    """The compiled library: from the cache folder, or compiled into it.

    Raises CompilerError with what the compiler said.
    """
    compiler = _compiler()
    sources = [path.read_text() for path in sorted(SOURCE.parent.iterdir()) if path.suffix in (".cpp", ".h")]
    key = hashlib.sha256("\0".join((*sources, *_FLAGS, _version(compiler), _processor())).encode())
    name = f"maps-{key.hexdigest()[:16]}.so"
    folder = cache_folder()
    try:
        if folder is None:
            raise PermissionError
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = folder / name
        if target.exists():
            if _is_ours(folder) and _is_ours(target):
                return target
            raise PermissionError
        scratch = Path(tempfile.mkdtemp(dir=folder))
    except OSError:  # no home, one that cannot be written, or one that others write: compiled anew by every process
        scratch = Path(tempfile.mkdtemp())
        target = scratch / name
    made = scratch / "made.so"
    try:
        _run([*compiler, *_FLAGS, "-o", str(made), str(SOURCE)])
        made.chmod(0o700)
        made.replace(target)  # at once, so that processes starting together cannot meet half a file
    finally:
        if target.parent != scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have put code there: loading it runs it."""
    found = path.stat()
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & 0o022


def cache_folder() -> Path | None:
    """Where compiled code is kept: EN_BENCH_CACHE, else en_bench in the user's cache folder; None without a home."""
    if folder := os.environ.get("EN_BENCH_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "en_bench"
    except RuntimeError:
        return None


def _compiler() -> list[str]:
    """The command: CXX, which may hold options too, or the first compiler that is there."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for name, *options in [asked] if asked else [["g++"], ["c++"], ["clang++"]]:
        if found := shutil.which(name):
            return [found, *options]
    raise CompilerError(f"no C++ compiler found ({' '.join(asked) or 'g++, c++, clang++'})")


def _version(compiler: list[str]) -> str:
    return " ".join(compiler) + _run([*compiler, "--version"])


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIME_LIMIT_S).stdout
    except subprocess.CalledProcessError as failed:
        lines = [line for line in failed.stderr.splitlines() if "error" in line] or failed.stderr.splitlines()
        raise CompilerError(f"{command[0]} failed: {lines[0] if lines else failed}") from failed
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise CompilerError(f"{command[0]} failed: {failed}") from failed


def _processor() -> str:
    """What -march=native depends on: a cache folder may be shared by unlike machines."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    said = (line for line in cpuinfo if line.startswith(("flags", "Features", "model name", "CPU part")))
    return platform.machine() + "".join(sorted(set(said)))
