"""Triton kernels: every case of `triton_cases` in Triton's interpreter, and on the GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")
CASES = Path(__file__).with_name("triton_cases.py")


def run(**settings: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_in_the_interpreter() -> None:
    run(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_the_gpu() -> None:
    run(TRITON_INTERPRET="0")


SHAPES = [(32, 256, 56, 56), (32, 1024, 14, 14), (32, 2048, 7, 7)]


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_for_hopper_all_accesses_are_wide(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs no GPU. bfloat16, channels_last: 128 bits an access, and 64 in reductions."""
    from en_bench.norms.maps import triton_device, triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    n, c, s = shape[0], shape[1], shape[2] * shape[3]
    reduction = triton_kernels._reduction(n, c, s, 2, True, 1, 132)
    elementwise = triton_kernels._elementwise(n, c, s, 2, True)
    for kernel, blocks, wide in (
        (triton_device.moments, {**reduction.blocks, "SPLIT": reduction.splits > 1}, "v2.b32"),
        (triton_device.sums, reduction.blocks, "v2.b32"),
        (triton_device.affine, elementwise.blocks, "v4.b32"),
        (triton_device.gradient, elementwise.blocks, "v4.b32"),
    ):
        ptx = _ptx(kernel, blocks)
        of_maps = [line for line in ptx.splitlines() if "ld.global" in line and "v4.b32" not in line]
        if wide == "v4.b32":
            assert not of_maps, of_maps
        else:
            assert of_maps and all(wide in line for line in of_maps), of_maps
        assert ".local" not in ptx  # registers spilled to memory


def _ptx(kernel: object, blocks: dict[str, int]) -> str:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, aligned = {}, {}, {}
    for position, parameter in enumerate(kernel.params):  # type: ignore[attr-defined]
        name = parameter.name
        if name in blocks:
            signature[name] = "constexpr"
            constants[(position,)] = blocks[name]
        elif name.endswith("_ptr"):
            signature[name] = "*bf16" if name in ("x_ptr", "y_ptr", "dy_ptr", "dx_ptr") else "*fp32"
            aligned[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i64"
    options = {"num_warps": blocks["num_warps"], "enable_fp_fusion": True}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
