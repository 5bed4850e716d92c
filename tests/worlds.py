"""Processes that talk to each other over gloo, for the tests of what is split among them.

A server has imported torch once, and each process is a fork of it, so that a world of four starts in a second.
"""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 100


def world(size: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Call work(rank, size, *given) in `size` processes, and return what each returns, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "torch.nn.parallel", "manyhot.linear_loss"])
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            context.Process(target=_enter, args=(rank, size, Path(folder) / "meet", send, work, given))
            for rank, (_, send) in enumerate(pipes)
        ]
        for process, (_, send) in zip(processes, pipes, strict=True):
            process.start()
            send.close()  # so that the end of the process is the end of what it sends
        try:
            answers = [_answer(receive) for receive, _ in pipes]
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    failed = [f"rank {rank}: {answer}" for rank, (fine, answer) in enumerate(answers) if not fine]
    assert not failed, "\n".join(failed)
    return [answer for _, answer in answers]


def _answer(receive: Any) -> tuple[bool, Any]:
    try:
        return receive.recv() if receive.poll(SECONDS) else (False, f"no answer in {SECONDS} s")
    except EOFError:
        return False, "died"


def _enter(rank: int, size: int, meet: Path, send: Any, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{meet}", rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS)
        )
        send.send((True, work(rank, size, *given)))
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        send.send((False, traceback.format_exc()))
