"""A training that reads far shards, in a process of its own that tests kill: `python -m tests.data.training_far ...`.

Prints the process that fetches ahead as soon as there is one, and sleeps between samples as a network's steps would.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time

from en_bench.data.cached_files import CachedFiles
from en_bench.data.fetch import Patience
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.shard_cache import ShardCache
from en_bench.data.shuffle import Shuffle

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("cache")
    parser.add_argument("--bound", type=int, default=10**9)
    parser.add_argument("--fork", action="store_true", help="a child that outlives this process")
    parser.add_argument("--seconds", type=float, default=0.05)
    args = parser.parse_args()
    manifest = load_manifest(args.url)
    order = Shuffle(tuple(shard.samples for shard in manifest.shards), seed=0, span=1)
    files = CachedFiles(manifest, ShardCache(args.cache, args.bound), order, patience=Patience(3, 0.01, 5))
    reader = ShardReader(manifest, manifest.load_index(), files=files)
    files.tell(0, 0)
    if args.fork:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(15,), daemon=True)
        child.start()
        print("child", child.pid, flush=True)
    told = None
    for epoch in range(10**6):
        for step, sample in enumerate(order.order(epoch)):
            reader.read(int(sample))
            files.tell(epoch, step + 1)
            if files.prefetcher_pid != told:
                told = files.prefetcher_pid
                print("prefetcher", told, flush=True)
            time.sleep(args.seconds)
