"""The one command of a bundle: train and predict its runs, with no DVC, Snakemake or network.

`resegment bundle` puts this package's part that trains and predicts beside a `run.py`, which calls
`main` in the bundle's folder. Every training and every prediction is a process of its own, as the
verbs at home are: the same steps in the same state give the same bytes. A run that fails leaves the
others alone; a second call goes on where the first one stopped.
"""

import argparse
import contextlib
import fcntl
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from resegment import closure, devices, parcel, paths
from resegment.errors import UserError
from resegment.files import atomic, fingerprint, md5, open_streams, read_json, trouble

HERE = Path()
LIVE: set[subprocess.Popen] = set()


def main(words: list[str] | None = None) -> int:
    """Exit code: 0 when every run asked for is finished, 1 otherwise."""
    parser = argparse.ArgumentParser("run.py", description="Train and predict what this folder "
                                     "holds. README.txt says more.")  # fmt: skip
    parser.add_argument("runs", nargs="*", metavar="RUN", help="default: every run of runs.json")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--side-by-side", type=int, default=1, metavar="N",
                        help="runs at the same time on each card, or on the CPU")  # fmt: skip
    parser.add_argument("--step", choices=tuple(STEPS), help=argparse.SUPPRESS)
    open_streams()
    asked = parser.parse_args(words)
    try:
        runs = chosen(parcel.read(HERE), asked.runs)
        if asked.step:
            with devices.claim(asked.device) as device:
                STEPS[asked.step](runs[-1], device)
            return 0
        parcel.check(HERE)
        packages()
        device = usable(asked.device)
        with alone() as lock:
            return work(runs, device, max(1, asked.side_by_side), lock)
    except UserError as e:
        print(f"run.py: {e}", file=sys.stderr)
    except OSError as e:
        if e.errno is None:
            raise
        print(f"run.py: {trouble(e)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 1


def chosen(bundle: dict, names: list[str]) -> list[dict]:
    """The entries of those runs (default: all) with the origin, in the bundle's order.

    A run that starts from another's weights brings that one along, before it.
    """
    known = {e["run"]["run"]: e | {"origin": bundle["origin"]} for e in bundle["runs"]}
    if unknown := [n for n in names if n not in known]:
        raise UserError(f"no run {', '.join(unknown)} in {parcel.RUNS}; it has {', '.join(known)}")
    wanted = set(names or known)
    for entry in reversed(known.values()):
        if entry["run"]["run"] in wanted:
            wanted.add(entry["run"]["initial"])
    return [e for name, e in known.items() if name in wanted]


def packages() -> dict[str, str]:
    """{module: version} of what training needs. Raises UserError where it is missing or too old."""
    found, lost = {}, []
    for module, want in parcel.read(HERE)["packages"].items():
        try:
            found[module] = importlib.import_module(module).__version__
        except ModuleNotFoundError as e:
            lost.append((f"`import {module}` fails ({e})", want))
            continue
        except ImportError as e:  # the package is there, a library of the system is not
            raise UserError(f"`import {module}` fails ({e}): install that library of the system "
                            "(a missing libGL: or opencv-python-headless in place of "
                            "opencv-python)") from None  # fmt: skip
        if numbers(found[module]) < numbers(want["least"]):
            lost.append((f"{want['package']} is {found[module]} here", want))
        elif found[module] != want["home"]:
            print(f"{module} is {found[module]} here and {want['home']} at home: the last bits of "
                  "the results will differ")  # fmt: skip
    if lost:
        wanted = " ".join(f"'{want['package']}>={want['least']}'" for _, want in lost)
        raise UserError(f"{'; '.join(said for said, _ in lost)}: pip install {wanted}")
    return found


def numbers(version: str) -> list[int]:
    """The release of a version: "2.13.0+cpu" is [2, 13, 0]."""
    return [int(n) for n in re.match(r"[\d.]*", version)[0].split(".") if n]


def usable(device: str) -> str:
    """cpu or cuda. A GPU that torch cannot use is an error: a CPU would take days in silence."""
    if device == "cpu" or (device == "auto" and not devices.cards()):
        if device == "auto":
            print("no GPU here: using the CPU")
        return "cpu"
    if not devices.cards():
        raise UserError(devices.NONE)
    devices.usable("cuda")
    return "cuda"


@contextlib.contextmanager
def alone() -> Iterator[int]:
    """Hold the folder. The runs' processes inherit the lock, and so outlive nobody unseen."""
    with open(".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("run.py, or a training that it left, is at work in this folder: wait "
                            "for it or end it") from None  # fmt: skip
        yield lock.fileno()


def work(runs: list[dict], device: str, side_by_side: int, lock: int) -> int:
    """Carry out all runs, `side_by_side` at a time on each card; say at the end what failed."""
    todo = [e for e in runs if not parcel.finished(HERE, e["run"]["run"])]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished; device {device}, "
          f"{side_by_side} at a time", flush=True)  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs: dict[str, Future] = {}
    cards = len(devices.cards()) if device == "cuda" else 1
    with ThreadPoolExecutor(side_by_side * cards) as pool:
        try:
            for entry in todo:
                first = jobs.get(entry["run"]["initial"])
                job = pool.submit(carry_out, entry, first, device, side_by_side, lock)
                jobs[entry["run"]["run"]] = job
            failed = {run: why for run, job in jobs.items() if (why := job.result())}
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(LIVE):
                process.terminate()
            raise
    for run, why in failed.items():
        print(f"FAILED {run}: {why}")
    print(f"{len(runs) - len(failed)} of {len(runs)} runs finished"
          + ("; the same command tries the others again" if failed else ""))  # fmt: skip
    return 1 if failed else 0


def carry_out(entry: dict, first: Future | None, device: str, side_by_side: int, lock: int) -> str:
    """Train and predict one run; returns why it failed, or nothing.

    first: the run from whose weights it starts. It was given to the pool before this one, so
    waiting for it cannot block the pool.
    """
    run, env = entry["run"]["run"], os.environ | {"RESEGMENT_PER_CARD": str(side_by_side)}
    if first and first.result():
        return f"{entry['run']['initial']}, from whose weights it starts, failed"
    for step in STEPS:
        words = [sys.executable, "run.py", "--step", step, "--device", device, run]
        said = ""
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=env, pass_fds=[lock]) as process:  # fmt: skip
            LIVE.add(process)
            for line in filter(str.strip, process.stdout):
                said = line.strip().removeprefix(f"{run}: ").removeprefix("run.py: ")
                say(f"{run}: {said}")
        LIVE.discard(process)
        if process.returncode:
            ended = f"ended by signal {-process.returncode}" if process.returncode < 0 else said
            return f"{step}: {ended}"
    say(f"{run}: finished")
    return ""


def say(line: str) -> None:
    """One write a line: threads share the terminal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def train(entry: dict, device: str) -> None:
    """The weights of one run, unless this bundle's are here; a killed training is taken up."""
    run, out = entry["run"], paths.run(entry["run"]["run"])
    first = paths.run(run["initial"]) / "weights.safetensors" if run["initial"] else None
    prepared = paths.prepared(run["split"], run["recipe"])
    code = closure.files("resegment.train", f"resegment.models.{run['model']['name']}")
    prints = {
        "parameters": fingerprint(entry["trained_by"]),
        "data": md5(prepared / "manifest.json"),
        "code": fingerprint({name: md5(file) for name, file in code.items()}),
    } | ({"initial": md5(first)} if first else {})
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = read_json(out / "manifest.json")
        weights = md5(out / "weights.safetensors")
        if (known["weights_md5"], known["fingerprints"]) == (weights, prints):
            return
    from resegment import checkpoint
    from resegment.train import fit

    fit(run, entry["trained_by"], prepared, out, device, entry["origin"], first)
    checkpoint.remove(run["run"])


def predict(entry: dict, device: str) -> None:
    """All maps of one run, and the receipt that says so."""
    from resegment.predict import predict

    for maps in entry["maps"]:
        out = paths.predictions(maps["id"])
        predict(entry["run"], device, maps["dataset"], maps["splits"], out)
    with atomic(parcel.receipt(HERE, entry["run"]["run"])) as tmp:
        tmp.write_text(md5(parcel.SUMS))


STEPS = {"train": train, "predict": predict}
