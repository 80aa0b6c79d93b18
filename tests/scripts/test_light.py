"""Scripts and the processes that they start have no use for torch, which takes seconds and memory of each."""

import subprocess
import sys

from tests.conftest import REPO


def test_no_script_loads_torch() -> None:
    names = sorted(path.stem for path in (REPO / "data_scripts").glob("*.py"))
    program = f"import sys, data_scripts.{', data_scripts.'.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert len(names) > 5 and done.stdout == "False\n"
