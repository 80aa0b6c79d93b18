r"""Prepares CIFAR-10 or CIFAR-100, with the human labels of CIFAR-N if their file is given.

    python data_scripts/cifar.py --raw cifar-10-python.tar.gz --noisy CIFAR-10_human.pt --out data/cifar10
    python data_scripts/cifar.py --raw cifar-100-python.tar.gz --noisy CIFAR-100_human.pt --out data/cifar100
    python data_scripts/cifar.py --raw cifar10_jpeg.tar.xz --out data/cifar7 --classes automobile,bird,cat,dog,frog

--raw is an archive as published, or the folder that it unpacks to:

    cifar-10-python.tar.gz    cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}
    cifar-100-python.tar.gz   cifar-100-python/{train,test,meta}
    cifar-10-binary.tar.gz    cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin, batches.meta.txt
    cifar-100-binary.tar.gz   cifar-100-binary/{train,test}.bin, fine_label_names.txt

or a folder or archive of images `{train,test}/<class>/<file>`. Arrays become PNGs, without loss; image files keep their
bytes. The test set becomes the split `val`. CIFAR-100 has its 100 fine classes. The data set's page states no licence.

Label columns: `given` and `clean`, the set's own labels, and in train those of CIFAR-N (CC BY-NC 4.0): `aggre`,
`random1` to `random3` and `worst` (in the file: worse_label) of CIFAR-10N, `noisy` of CIFAR-100N. Every clean label of
that file must be the set's own at the same place. Image files do not tell their place in the set: the k-th file of a
class, by the number in its name, is taken for the k-th sample of that class, and only the counts per class can be
checked; files numbered in another order would go unnoticed.

--classes or --class-map keep a part of the classes, by clean label. A noisy label outside them becomes unknown, so that
its sample takes no part in training on that column; realised noise rates are over those that remain.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from data_scripts.layouts.cifar_files import Found, find_set
from data_scripts.layouts.cifar_labels import HumanLabels, Selection, read_human_labels, select_classes
from en_bench.data.archives import RawFiles
from en_bench.data.classes import read_class_map
from en_bench.data.prepare import (
    Split,
    add_raw_options,
    image_encoder,
    limited,
    make_parser,
    run_script,
    shortened,
    write_splits,
)
from en_bench.data.sources import Source
from en_bench.noise.preparing import add_noise_option


def list_split(found: Found, split: str, selection: Selection, human: HumanLabels | None) -> Split:
    """The samples of a split whose clean label is kept, with all label columns."""
    columns = human.columns if human is not None and split == "train" else {}
    samples = []
    for position, item in enumerate(found.items[split]):
        label = int(selection.table[item.label])
        if label < 0:
            continue
        labels = {"given": label, "clean": label}
        labels |= {column: int(selection.table[values[position]]) for column, values in columns.items()}
        samples.append(Source(item.key, labels, item.load, item.origin))
    publisher = f"{found.cifar.name.upper().replace('CIFAR', 'CIFAR-')}N"
    noise = {column: {"kind": "human", "source": publisher} for column in columns}
    return Split(split, samples, found.skipped.get(split, []), noise)


def dropped_labels(train: Split) -> dict[str, int]:
    """Per noisy column how many labels of the kept samples are of a class that is not kept."""
    return {column: sum(sample.labels[column] < 0 for sample in train.samples) for column in train.noise}


def prepare(args: argparse.Namespace) -> None:
    """Writes train and val."""
    raw = RawFiles(args.raw, nested=True)
    found = find_set(raw)
    class_map = read_class_map(args.class_map, raw) if args.class_map else None
    selection = select_classes(found.cifar, args.classes, class_map)
    human = read_human_labels(args.noisy, raw, found) if args.noisy else None
    splits = [list_split(found, split, selection, human) for split in found.items]
    kept = {split.name: len(split.samples) for split in splits}
    # What is said of labels below is said of the samples that are written.
    splits = [dataclasses.replace(split, samples=limited(split.samples, args)) for split in splits]
    dropped = dropped_labels(splits[0])
    if human:
        splits[0] = dataclasses.replace(splits[0], source={"noisy": human.about, "dropped": dropped})
    source: dict[str, object] = {
        "script": "cifar.py",
        "raw": raw.name,
        "form": found.form,
        **selection.about,
    }
    write_splits(
        args,
        splits,
        dataset=found.cifar.name,
        classes=selection.classes,
        source=source,
        encode=dataclasses.replace(image_encoder(args), encoding="png"),
        notes=_notes(found, selection, splits, kept, dropped, human),
    )


def _notes(
    found: Found,
    selection: Selection,
    splits: Sequence[Split],
    kept: dict[str, int],
    dropped: dict[str, int],
    human: HumanLabels | None,
) -> list[str]:
    notes = [
        f"{found.cifar.name}, {found.form} files, {len(selection.classes)} classes: {shortened(selection.classes)}"
    ]
    notes += found.notes
    for split, count in kept.items():
        there, published = len(found.items[split]), found.cifar.counts[split]
        if there != published:
            notes.append(f"{split} has {there:,} images, the set as published {published:,}")
        if count != there:
            notes.append(f"left out {there - count:,} samples of {split} whose clean label is not kept")
    if human is not None:
        notes.append(f"human labels: {human.about['aligned']}")
    if any(dropped.values()):
        counts = ", ".join(f"{column} {count:,}" for column, count in dropped.items())
        notes.append(
            f"of the {len(splits[0].samples):,} kept for train, labels outside the classes became unknown: {counts}"
        )
    return notes


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser, short_side=None)
    add_noise_option(parser)
    parser.add_argument("--noisy", metavar="FILE", help="CIFAR-N labels, .pt or .npy; on disk or within --raw")
    subset = parser.add_mutually_exclusive_group()
    subset.add_argument("--classes", metavar="A,B,C", help="classes to keep, by clean label")
    subset.add_argument("--class-map", metavar="FILE", help="CSV source,target of the classes to keep")
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
