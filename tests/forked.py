"""The command in processes of their own that start at once: forked from one that has all imports and has done nothing.

A start takes four seconds of imports, and a training that is killed a hundred times takes less.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

# Reads a command a line, and says the number of its process, and its exit status when it has one.
PARENT = """
import json, os, signal, sys
import manyhot.toolkit.compare.compare, manyhot.toolkit.spans.train, manyhot.toolkit.train
import manyhot.toolkit.disk.checkpoint as checkpoint
import manyhot.toolkit.models.linear as linear
from manyhot.toolkit.cli.main import main
checkpoint.WRITE_SECONDS, checkpoint.SHARE = 0.0, 1e9
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDONLY) if number == 0 else output, number)
        os.chdir(asked["folder"])
        linear.LBFGS_VECTORS = asked["vectors"] or linear.LBFGS_VECTORS
        sys.argv = ["manyhot", *asked["arguments"]]
        main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Forked:
    """A process that forks; one command at a time.

    Args:
        output: the file that commands print to.
        vectors: what stands for LBFGS_VECTORS, if not its own.
    """

    def __init__(self, output: Any, vectors: int | None = None) -> None:
        self.output, self.vectors, self.heard = str(output), vectors, b""
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            bufsize=0,
        )

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.close()
        self.parent.wait()
        self.parent.stdout.close()

    def _number(self, within: float | None = None) -> int | None:
        """Read a line; None where there is none within so many seconds. What is read ahead would not be waited for."""
        assert self.parent.stdout is not None
        while b"\n" not in self.heard:
            if not select.select([self.parent.stdout], [], [], within)[0]:
                return None
            data = os.read(self.parent.stdout.fileno(), 100)
            assert data, "the process that forks has ended"
            self.heard += data
        line, _, self.heard = self.heard.partition(b"\n")
        return int(line)

    def start(self, arguments: list[str]) -> int:
        """Start a command in the current folder; return the number of its process."""
        assert self.parent.stdin is not None
        open(self.output, "w").close()
        asked = {"arguments": arguments, "folder": os.getcwd(), "output": self.output, "vectors": self.vectors}
        self.parent.stdin.write(json.dumps(asked).encode() + b"\n")
        child = self._number()
        assert child is not None
        return child

    def end(self) -> int:
        """Wait until it ends; return its exit code, that of subprocess."""
        status = self._number()
        assert status is not None
        return os.waitstatus_to_exitcode(status)

    def run(self, arguments: list[str], killed_after: float | None = None) -> tuple[int, float]:
        """Run a command to its end or for so many seconds; return its exit code, and the seconds it took."""
        child, began = self.start(arguments), time.monotonic()
        status = self._number(within=killed_after)
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = self._number()
        assert status is not None
        return os.waitstatus_to_exitcode(status), time.monotonic() - began

    def said(self) -> str:
        """Return what the last command printed."""
        with open(self.output) as file:
            return file.read()
