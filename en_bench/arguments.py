"""How command lines are read: what is wrong with one is told in one line, with the cure."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from en_bench.matrix.closest import did_you_mean

_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)", re.S)


class Parser(argparse.ArgumentParser):
    """Without the usage before each error, which `--help` prints. Its subparsers are of this class too."""

    def error(self, message: str) -> NoReturn:
        meant = ""
        if choice := _CHOICE.search(message):
            meant = did_you_mean(choice[1], [part.strip().strip("'") for part in choice[2].split(",")])
        self.exit(2, f"{self.prog}: error: {message}{meant}; {self.prog} --help lists what there is\n")


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)
