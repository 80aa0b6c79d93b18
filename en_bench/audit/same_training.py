"""Whether a checkpoint was trained on the split, and on the labels, that are here."""

from __future__ import annotations

from typing import Any

from en_bench.data.manifest import Manifest, require_same_classes
from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.noise.in_words import told_json


def check_same_set(saved: dict[str, Any], manifest: Manifest, data: ShardDataModule) -> None:
    """Raises InputError where a checkpoint was trained on another split, or on other labels, than are here.

    `data` is set up for training. A checkpoint older than noise and the held-out part had neither.
    """
    require_same_classes(
        saved.get("en_bench", {}).get("classes", manifest.classes), manifest.classes, "the checkpoint", data.train
    )
    state = saved.get(type(data).__qualname__, {})
    if not state:
        return
    here = data.stream_state()
    found = state.get("manifest", here.manifest)
    if found != here.manifest:
        raise InputError(
            f"the checkpoint was trained on a set with manifest {found[:12]}, {data.train} here has "
            f"{here.manifest[:12]}: give --data.root and --data.train of the set that was trained on"
        )
    if state.get("labels", here.labels) != here.labels:
        raise InputError(
            f"the checkpoint was trained on labels '{state['labels']}', not on '{here.labels}': leave --data.labels out"
        )
    noise, held_out = state.get("noise"), state.get("held_out", 0.0)
    if noise != here.noise:
        cure = "use --data.noise null" if noise is None else "leave --data.noise out, or give what it was trained with"
        raise InputError(f"the checkpoint was trained with {told_json(noise)}, here is {told_json(here.noise)}: {cure}")
    if held_out != here.held_out:
        raise InputError(
            f"the checkpoint was trained with a share of {held_out} held out, here it is {here.held_out}: use "
            f"--data.held_out {held_out}"
        )
