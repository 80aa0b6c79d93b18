"""A callback that makes a tiny training long enough to be disturbed, on a fast machine too."""

from __future__ import annotations

import time
from typing import Any

from lightning import Callback


class Slowly(Callback):
    """Sleeps after each batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any) -> None:
        time.sleep(self.seconds)
