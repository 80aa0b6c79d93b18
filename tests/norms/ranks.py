"""Functions run by two real processes that exchange tensors over the loopback device, through gloo."""

import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2
_START_SECONDS, _EXCHANGE_SECONDS = 90, 20


def on_two_ranks(function: Callable[[int], Any], folder: Path, seconds: float = 120) -> list[Any]:
    """What `function(rank)` returns on each rank, in the order of ranks; both are members of one process group.

    `function` is importable by name, or a partial of such a one, and returns what `torch.load(weights_only=True)`
    reads. Raises RuntimeError with the traceback of what a rank raised, and where a rank takes longer than `seconds`.
    """
    processes = [
        mp.get_context("spawn").Process(target=_rank, args=(function, rank, folder), daemon=True)
        for rank in range(RANKS)
    ]
    end = time.monotonic() + seconds
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(end - time.monotonic(), 0))
        told = [path.read_text() for path in sorted(folder.glob("raised-*"))]
        if told:
            raise RuntimeError("\n".join(told))
        if codes := [process.exitcode for process in processes if process.exitcode != 0]:
            raise RuntimeError(f"ranks ended with {codes} after {seconds} s at most (None: did not end)")
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(RANKS)]


def _rank(function: Callable[[int], Any], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ["GLOO_SOCKET_IFNAME"] = loopback
    try:
        store = dist.FileStore(str(folder / "store"), RANKS)
        store.set_timeout(timedelta(seconds=_START_SECONDS))
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=_EXCHANGE_SECONDS)
        )
        torch.save(function(rank), folder / f"result-{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"raised-{rank}").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise SystemExit(1) from None
