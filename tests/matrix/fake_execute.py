"""Stands for training: writes the files that `en-bench fit` and `validate` write, with numbers from a hash.

As a script it is an `en-bench` with only the matrix's verbs.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from en_bench.errors import InputError
from en_bench.files import write_json
from en_bench.matrix.local import crew
from en_bench.matrix.overlays import Config, merge, read_yaml
from en_bench.matrix.run import INTERRUPTED
from en_bench.matrix.verbs import add_verbs
from en_bench.standard_streams import open_standard_streams
from en_bench.stop import STOPPED, asked_to_stop, stoppable
from en_bench.tied import end_with_parent

MADE = {"device": "cpu", "versions": {"torch": "2.15.0"}, "commit": {"sha": "0123456789abcdef", "dirty": False}}
LOGGER = logging.getLogger("fake")
LOGGER.addHandler(logging.StreamHandler())


def execute(argv: list[str]) -> None:
    # Every command leaves a trace, so that tests can count what ran.
    with open(os.environ.get("FAKE_TRACE", os.devnull), "a") as trace:
        trace.write(json.dumps(argv) + "\n")
    with open(os.environ.get("FAKE_PLACES", os.devnull), "a") as places:
        places.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    LOGGER.warning("a line of a logging handler")
    os.write(2, b"a line of a library\n")
    parser = argparse.ArgumentParser()
    for name in ("--seed_everything", "--trainer.default_root_dir", "--data.root", "--data.val", "--data.val_labels"):
        parser.add_argument(name)
    for name in ("--ckpt_path", "--result", "--out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--config", action="append", type=Path)
    args, rest = parser.parse_known_args(argv[1:])
    values = vars(args)
    config: Config = merge(read_yaml(file) for file in args.config)
    for name in ("data.val", "data.val_labels"):
        if values[name] is not None:
            config = merge([config, {"data": {name.removeprefix("data."): values[name]}}])
    config["seed_everything"] = int(values["seed_everything"] or 0)
    if "FAKE_DEAF" in os.environ:
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    if argv[0] == "fit":
        _fit(Path(values["trainer.default_root_dir"]), int(values["seed_everything"]), config, rest)
    elif argv[0] == "norms":
        _recalibrate(values["data.val"], args.ckpt_path, args.out, args.result)
    else:
        weights = args.ckpt_path.read_text()
        _validate(values["data.val"], values["data.val_labels"], args.result, str(args.config), weights)


def _fit(run: Path, seed: int, config: dict[str, object], rest: list[str]) -> None:
    text = json.dumps([config, rest])
    if os.environ.get("FAKE_FAIL", "nothing") in text:
        how = os.environ.get("FAKE_HOW", "error")
        if how == "error":
            raise RuntimeError("loss is not\nfinite <b>at all</b>")
        if how == "input":
            raise InputError("90 training samples cannot fill 2 ranks x batch 64")
        if how == "exit":
            print("en-bench fit: error: no such option", file=sys.stderr)
            sys.exit(2)
        if how == "nothing":
            return
        if how in ("die", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if how == "die" else signal.SIGTERM)
        once = {"die once": signal.SIGKILL, "stop once": signal.SIGTERM}
        if how in once:
            with contextlib.suppress(FileExistsError), open(os.environ["FAKE_DEATH"], "x"):
                os.kill(os.getpid(), once[how])
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.dumps({"step": e, "epoch": e, "val/top1": 0.5 + 0.2 * e + 0.01 * seed}) for e in range(2)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    data = config["data"]
    assert isinstance(data, dict)
    parts = {
        part: {"set": data[part], "digest": digest(data[part]), "n": 10, "labels": "given"} for part in ("train", "val")
    }
    cost = {"seconds": 1.5, "images_per_second": 1000.0, "parameters": 272474, "peak_memory_bytes": 2**28}
    write_json(
        run / "fit.json",
        {"command": "fit", "seed": seed, "config": config, **parts, "epochs": 2, "metrics": {}, "cost": cost, **MADE},
    )


def _recalibrate(name: str, checkpoint: Path, out: Path, result: Path) -> None:
    if os.environ.get("FAKE_FAIL_ADAPT", "nothing") in name:
        raise RuntimeError(f"cannot recalibrate on {name}")
    assert checkpoint.read_text() == "weights" and not out.exists()
    facts = {"set": name, "digest": digest(name), "normalisers": 0, "batches": 0, "samples": 0}
    if "FAKE_NO_MOMENTS" not in os.environ:
        facts |= {"normalisers": 9, "batches": 3, "samples": 300}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(facts))
    write_json(result, facts)


def _validate(name: str, labels: str | None, result: Path, salt: str, weights: str) -> None:
    if os.environ.get("FAKE_FAIL_VALIDATE", "nothing") in name:
        raise RuntimeError(f"cannot validate on {name}")
    recalibrated = {} if weights == "weights" else {"recalibrated": json.loads(weights)}
    salt += weights if recalibrated else ""
    top1 = int(hashlib.sha256(f"{name}{salt}".encode()).hexdigest()[:4], 16) / 2**16
    metrics = {"top1": top1, "top5": min(1.0, top1 * 1.5), "nll": 2.0 - top1, "ece": 0.05}
    write_json(
        result,
        {"command": "validate", "set": name, "labels": labels or "clean", "digest": digest(name), "n": 397}
        | {"whole_set": name != os.environ.get("FAKE_PART")}
        | recalibrated
        | {"metrics": metrics, "cost": {"seconds": 0.1}, **MADE},
    )


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


if __name__ == "__main__":
    open_standard_streams()
    end_with_parent()
    crew.PROGRAM = (sys.executable, __file__)
    main = argparse.ArgumentParser()
    add_verbs(main.add_subparsers(required=True))
    arguments = main.parse_args()
    with stoppable():
        try:
            code = arguments.handler(arguments, execute)
        except KeyboardInterrupt:
            code = INTERRUPTED
        sys.exit(STOPPED if code and asked_to_stop() is not None else code)
