"""Transfer without labels: which images recalibrate the running moments before a second validation (AdaBN).

Source: Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016, arXiv 1603.04779.
"""

from collections.abc import Collection, Mapping

from en_bench.errors import InputError
from en_bench.matrix.closest import did_you_mean


def parse_adapted(
    raw: object, where: str, validate: Collection[str], own: Collection[str], trained_on: Mapping[str, str]
) -> dict[str, str]:
    """The split of unlabelled images by validation label.

    `raw` maps labels of `validate` to splits (`imagenet: imagenet/train`), or lists labels that are training sets too,
    whose own training split is taken; `trained_on` holds these by label. Raises InputError for other labels, and for
    those in `own`, which stand for a training's own validation set: moments of its own training images are what it has.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict | list) or not raw:
        raise InputError(
            f"{where}: expected 'validation label: split of unlabelled images', or a list of training sets"
        )
    for label in raw:
        if not isinstance(label, str) or label not in validate:
            raise InputError(f"{where}: {label!r} is no label of validate{did_you_mean(label, validate)}")
        if f"{label}.adapted" in validate:
            raise InputError(f"{where}: {label!r}: the label '{label}.adapted' names the same results: rename it")
        if label in own:
            raise InputError(
                f"{where}: {label!r} stands for each training's own set, which needs no adapting: remove it"
            )
    if isinstance(raw, list):
        if len(set(raw)) < len(raw):
            raise InputError(f"{where}: a label stands twice: remove one")
        for label in raw:
            if label not in trained_on:
                raise InputError(
                    f"{where}: {label!r} is no training set, so its unlabelled images are not known: write "
                    f"'{label}: <split>'"
                )
        return {label: trained_on[label] for label in raw}
    for label, split in raw.items():
        if not isinstance(split, str) or not split:
            raise InputError(f"{where}: {label}: {split!r} names no split: write one such as imagenet/train")
    return dict(raw)
