"""Work done in processes of their own, so that one that dies takes nothing else along."""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

AHEAD = 2  # jobs handed out for each worker, so that results do not pile up


@dataclass(frozen=True)
class Died:
    """What stands for the result of a job whose process ended before it was done.

    how: the signal or exit code that ended it.
    """

    how: str


def worked(work: Callable, jobs: Sequence, workers: int) -> Iterator:
    """work(job) for each job, in the order of the jobs; `Died` for one that ends its process.

    Where a worker dies, nobody knows by which job: each one under way is done again alone in a process of its own, and
    the rest go on in new workers. `work` and `jobs` are pickled; `work` should not raise.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting = deque(jobs)
    while waiting:
        yield from _until_broken(work, waiting, min(workers, len(waiting)), context)


def _until_broken(work, waiting: deque, workers: int, context) -> Iterator:
    """Results of jobs taken from `waiting` until none is left or a worker died."""
    running, broken = deque(), False
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        while running or (waiting and not broken):
            while waiting and not broken and len(running) < AHEAD * workers:
                try:
                    running.append((waiting[0], pool.submit(work, waiting[0])))
                except BrokenProcessPool:
                    broken = True
                else:
                    waiting.popleft()
            if not running:
                return
            job, future = running.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                broken, result = True, _alone(work, job, context)
            yield result


def _alone(work, job, context):
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, job, sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        process.join()
        return Died(_how(process.exitcode))
    finally:
        receiving.close()
        process.join()


def _send(work, job, sending) -> None:
    sending.send(work(job))


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL, perhaps for want of memory"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
