"""A training in several processes of its own, from a process that may have others to do."""

import os
import signal
import sys
import tempfile
from dataclasses import asdict
from multiprocessing import set_forkserver_preload
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from tlimb.config import Tuning
from tlimb.errors import InputError, Problem
from tlimb.files import read_json, write_json
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.processes import LEAST
from tlimb.scenarios.progress import Progress, TrainingFailed
from tlimb.scenarios.scenario import Training, trained
from tlimb.scenarios.trainer import KILLED, TERMINATED
from tlimb.state import Kept, read_state, write_state
from tlimb.store import Store


def fit_apart(training: Training, kept: Kept, device: torch.device) -> Progress:
    """What `fit` does, in as many new processes as the stage's trainer has devices.

    They are forks of a process that has imported what they need and done nothing, so that the next training of a pack
    need not import it again. Each prepares the training anew and trains on its part of every batch; the first writes
    states, and its result is the training's. Where one fails the others are ended. Raises TrainingFailed with what that
    one said, OSError where that was the machine's fault, SystemExit (143, 137) where one was ended by SIGTERM or
    SIGKILL, and InputError for more devices than there are GPUs, for too few scans in a batch, and for what an encoder
    that is divided cannot do.
    """
    size = training.stage["trainer"]["devices"]
    _check(training, size, device)
    run, source = training.again
    threads, port = max(torch.get_num_threads() // size, 1), find_free_network_port()
    scans = source.store.folder, source.store.shards, source.scan_ids, source.trusted
    with tempfile.TemporaryDirectory() as folder:
        given = (size, port, threads, device.type, run, scans, kept, folder)
        set_forkserver_preload(["tlimb.scenarios.prepare"])
        started = start_processes(_train, given, nprocs=size, join=False, start_method="forkserver", daemon=True)
        try:
            while not started.join():
                pass
        except (ProcessRaisedException, ProcessExitedException) as error:
            _end_if_killed(error, [process.exitcode for process in started.processes])
            raise _reason(Path(folder), error) from error
        result = read_state(Path(folder) / "result.safetensors")
    training.network.load_state_dict(result["network"])
    training.objective.load_state_dict(result["objective"])
    training.tuner.finish()
    return Progress(**result["progress"])


def _check(training: Training, size: int, device: torch.device) -> None:
    """Enough GPUs, and enough scans for every process to have its part of each batch."""
    stage, found = training.stage, []
    if stage["trainer"]["strategy"] == "fsdp":
        if stage["strategy"] not in ("scratch", "full") or stage["tuning"] != Tuning().model_dump():
            message = "'fsdp' divides an encoder all of which trains at one rate, without an average"
            found.append(("strategy", message, "leave `tuning` out, with strategy 'scratch' or 'full', or use 'ddp'"))
    if device.type == "cuda" and torch.cuda.device_count() < size:
        found.append(("devices", f"{size} are asked for, {torch.cuda.device_count()} GPUs answer", ""))
    least = LEAST * size
    if min(stage["batch_size"], len(training.order)) < least:
        message = f"{size} processes need batches and a training part of at least {least} scans"
        found.append(("devices", f"{message}, found {stage['batch_size']} and {len(training.order)}", ""))
    if len(training.validation) < size:
        found.append(("devices", f"expected at least {size} validation scans, found {len(training.validation)}", ""))
    if found:
        where = f"stages.{stage['name']}.trainer"
        raise InputError([Problem(f"{where}.{key}", message, hint) for key, message, hint in found])


def _train(rank: int, size: int, port: int, threads: int, kind: str, run, scans: tuple, kept: Kept, folder: str):
    """One of the processes; the first leaves result.safetensors in `folder`, one that fails failure-<rank>.json."""
    from tlimb.scenarios.prepare import Source, prepare

    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address | {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)})
    set_up_torch(threads, training=True)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    store, shards, scan_ids, trusted = scans
    try:
        training = prepare(run, Source(Store(store, shards), scan_ids, device, trusted))
        best, progress = trained(training, kept, device)
    except Exception as error:
        write_json(Path(folder) / f"failure-{rank}.json", _told(error))
        raise
    if rank == 0:
        write_state(Path(folder) / "result.safetensors", best | {"progress": asdict(progress)})


def _told(error: Exception) -> dict:
    """What is said of an error that is to be raised again by the process that waits."""
    from tlimb.scenarios.results import reason_of

    machine = isinstance(error, (OSError, MemoryError)) and not isinstance(error, InputError)
    told = {"reason": reason_of(error), "machine": machine, "failure": None, "history": []}
    if isinstance(error, TrainingFailed):
        told |= {"failure": error.failure, "history": error.history}
    return told


def _end_if_killed(error: Exception, codes: list[int]) -> None:
    """End this process as a scheduler or the lack of memory ended one of its children, whose exit codes these are: such
    a task is run again. What failed first is looked at for SIGTERM, by which the others are ended."""
    status = KILLED if -signal.SIGKILL in codes else getattr(error, "exit_code", 0)
    status = TERMINATED if status == -signal.SIGTERM else status
    if status in (KILLED, TERMINATED):
        print(f"a process of the training was killed: {error}".splitlines()[0], file=sys.stderr)
        raise SystemExit(status)


def _reason(folder: Path, error: Exception) -> Exception:
    """What the process that failed first said, or that it was ended without a word."""
    files = sorted(folder.glob("failure-*.json"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        return TrainingFailed(f"a process of the training ended: {error}".splitlines()[0])
    told = read_json(files[0])
    if told["machine"]:
        return OSError(told["reason"])
    return TrainingFailed(told["reason"], told["failure"], told["history"])
