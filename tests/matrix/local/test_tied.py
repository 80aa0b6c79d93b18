"""Processes that end with the one that started them, and with no other."""

import subprocess
import sys
import textwrap

import psutil
import pytest

CHILD = """
import ctypes, subprocess
from en_bench.tied import end_with_parent
end_with_parent()
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
ctypes.PyDLL(None).sleep(60)  # without letting go of the interpreter's lock
"""

PARENT = """
import subprocess, sys
from en_bench.tied import tie
with tie() as tied:
    child = subprocess.Popen(
        [sys.executable, "-c", sys.argv[1]],
        pass_fds=tied.descriptors, env=tied.environment, start_new_session=True,
    )
    print(child.pid, flush=True)
    child.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no kernel sends a signal when a pipe is closed")
def test_a_process_that_holds_the_interpreters_lock_ends_with_its_parent() -> None:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), textwrap.dedent(CHILD)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    tied = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]  # the child, and what it has started
    parent.kill()
    parent.wait()
    parent.stdout.close()
    alive = psutil.wait_procs(tied, timeout=20)[1]
    for process in alive:
        process.kill()
    assert not alive


SIBLINGS = """
import subprocess, sys, time
from en_bench.tied import tie
CHILD = "from en_bench.tied import end_with_parent; end_with_parent(); print(flush=True); input()"
with tie() as tied:
    options = {"pass_fds": tied.descriptors, "env": tied.environment, "start_new_session": True, "text": True}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    first, second = (subprocess.Popen([sys.executable, "-c", CHILD], **pipes, **options) for _ in range(2))
    for child in (first, second):
        child.stdout.readline()
    first.kill()
    first.wait()
    time.sleep(0.5)
    print(second.poll())
    second.communicate("")
"""


def test_the_end_of_one_leaves_the_others_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SIBLINGS], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "None\n", done.stderr
