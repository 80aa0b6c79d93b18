"""The tuning budget: how many recipes were tried for each normaliser before the one in the specification."""

from collections.abc import Mapping

from en_bench.errors import InputError
from en_bench.matrix.closest import did_you_mean


def parse_tuning(raw: object, where: str, norms: Mapping[str, object]) -> dict[str, int]:
    """The number of recipes tried by normaliser, from `{BatchNorm: 4}` or from one number for all of `norms`.

    The recipe that is run counts: 1 says that no other was tried. Normalisers that are not named are left out, since
    nothing is known of them. Raises InputError for a normaliser that is not in `norms` and for what is no number.
    """
    if raw is None:
        return {}
    given: dict[str, object] = raw if isinstance(raw, dict) else dict.fromkeys(norms, raw)
    tried: dict[str, int] = {}
    for label, count in given.items():
        if label not in norms:
            raise InputError(f"{where}: {label!r} is no label of norms{did_you_mean(label, norms)}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(
                f"{where}: {count!r} is no number of recipes: write how many were tried for each normaliser, the one "
                "that is run included, such as {BatchNorm: 1}"
            )
        tried[label] = count
    return tried
