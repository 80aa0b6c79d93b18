"""Which names of files can be used, in archives and as keys."""

from __future__ import annotations

import re

# Control characters, line and paragraph separators, and the surrogates that stand for bytes that are no UTF-8.
_STRANGE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def fault_of_name(name: str) -> str:
    """Why a name cannot be used, empty if it can."""
    found = _STRANGE.search(name)
    if found is None:
        return ""
    code = ord(found.group())
    what = "bytes that are not UTF-8" if 0xD800 <= code <= 0xDFFF else f"the control character U+{code:04X}"
    return f"its name holds {what}"
