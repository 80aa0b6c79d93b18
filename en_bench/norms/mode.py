"""How much of the normalisers is compiled."""

import os


def mode() -> str:
    """EN_BENCH_NORMS: `compiled` (the default), `eager` (tables in PyTorch) or `plain` (passes in PyTorch too).

    Raises ValueError for anything else.
    """
    chosen = os.environ.get("EN_BENCH_NORMS") or "compiled"
    if chosen not in ("compiled", "eager", "plain"):
        raise ValueError(f"EN_BENCH_NORMS is {chosen!r}, expected compiled, eager or plain")
    return chosen
