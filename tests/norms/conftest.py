from pathlib import Path

import pytest

from en_bench.norms.maps import native


@pytest.fixture
def stand_in_compiler(tmp_path: Path) -> Path:
    """A command for CXX that copies the library that is there already: compiling it takes some seconds."""
    command = tmp_path / "stand-in-c++"
    command.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -o ]; do [ "$1" = --version ] && echo "a stand-in" && exit; shift; done\n'
        f'cp "{native.build()}" "$2"\n'
    )
    command.chmod(0o755)
    return command
