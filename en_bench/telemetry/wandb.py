"""A mirror of a run's metrics at Weights & Biases. The local files stay the truth; nothing here may stop a training."""

from __future__ import annotations

import netrc
import os
import secrets
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from en_bench.errors import InputError

INIT_TIMEOUT = 20  # seconds to wait for the server before going offline
FINISH_TIMEOUT = 120  # seconds to wait for the last upload
ID_FILE = "wandb-id.txt"


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbMirror(Logger):
    """Mirrors metrics of rank 0 to one W&B run for each run folder, however many times the training is resumed.

    Args:
        project: W&B project.
        entity: W&B user or team (default: the login's own).
        mode: `auto` is online with a login and a reachable server, otherwise offline (`wandb sync` uploads it later).

    Raises InputError if the package wandb is not installed. Any later failure becomes one warning and ends the mirror.
    """

    def __init__(
        self,
        project: str = "en_bench",
        entity: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
    ) -> None:
        super().__init__()
        try:
            import wandb  # noqa: F401
        except ImportError:
            raise InputError("W&B logging needs the package wandb: pip install 'en_bench[wandb]'") from None
        self.project, self.entity, self.mode = project, entity, mode
        self._folder = Path(".")
        self._run_id = ""
        self._config: dict[str, Any] = {}
        self._run: Any = None
        self._broken = False

    def attach(self, folder: Path, run_id: str, config: dict[str, Any]) -> None:
        """Says which run this is: its folder (which keeps the W&B id), how a new id begins, and its configuration."""
        self._folder, self._run_id, self._config = folder, run_id, config

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self._run_id

    @property
    def experiment(self) -> Any:
        """The wandb run, started at first use; None where it could not be started and on ranks above 0."""
        if self._run is None and not self._broken and getattr(rank_zero_only, "rank", 0) == 0:
            self._run = self._guard(self._start)
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        run = self.experiment
        if run is not None:
            self._guard(lambda: run.log({**metrics, "step": step}))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole configuration is sent when the run starts."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        # Uploading what is left may wait for a network that is gone; the training does not wait with it.
        code = 0 if status == "success" else 1
        finishing = threading.Thread(target=lambda: self._guard(lambda: run.finish(exit_code=code)), daemon=True)
        finishing.start()
        finishing.join(FINISH_TIMEOUT)
        if finishing.is_alive():
            warnings.warn(f"W&B did not finish within {FINISH_TIMEOUT} s: `wandb sync` uploads the rest", stacklevel=2)

    def _start(self) -> Any:
        import wandb

        id_file = self._folder / ID_FILE
        self._folder.mkdir(parents=True, exist_ok=True)
        if not id_file.exists():
            # Not the configuration alone: the same training on two machines must not become one run.
            id_file.write_text(f"{self._run_id}-{secrets.token_hex(4)}\n", encoding="utf-8")
        arguments: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "id": id_file.read_text(encoding="utf-8").strip(),
            "dir": str(self._folder),
            "config": self._config,
            "resume": "allow",
            "reinit": "finish_previous",
        }
        mode: Any = os.environ.get("WANDB_MODE") or self.mode
        if mode == "auto":
            mode = "online" if _logged_in() else "offline"
        settings = wandb.Settings(init_timeout=INIT_TIMEOUT, silent=True)
        try:
            run = wandb.init(mode=mode, settings=settings, **arguments)
        except Exception as error:
            if mode == "offline":
                raise
            warnings.warn(f"W&B cannot be reached ({type(error).__name__}): this run is kept offline", stacklevel=2)
            run = wandb.init(mode="offline", settings=settings, **{**arguments, "resume": None})
        if run.offline:
            print(f"W&B mirror offline in {self._folder / 'wandb'}: `wandb sync` uploads it", flush=True)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever it is, a mirror does not stop a training
            self._broken, self._run = True, None
            warnings.warn(f"W&B mirror ends: {type(error).__name__}: {error}; local metrics go on", stacklevel=2)
            return None
