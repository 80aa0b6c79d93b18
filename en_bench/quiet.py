"""What Lightning says that is no news to those who use our commands."""

from __future__ import annotations

import logging
import warnings

_NO_NEWS = (
    ".*isinstance.treespec, LeafSpec.*",  # between Lightning and torch
    # Advice on numbers of workers and on intervals of logging: choices that overlays make on purpose.
    ".*does not have many workers.*",
    ".*training batches.*is smaller than the logging interval.*",
    ".*your dataloader is not resumable.*",  # ours is, by its position alone
    ".*`srun` command is available on your system but is not used.*",  # one process is what the command asked for
    # Our loaders stack whole batches themselves, and DDP's own sampler is not wanted.
    ".*Trying to infer the `batch_size`.*",
)


def quieten() -> None:
    """Keeps it from being said."""
    for name in ("lightning.pytorch", "lightning.fabric"):  # which devices there are, tips, and other talk
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=message)
