"""What a user waits for when typing a command."""

import subprocess
import sys

from benchmarks import Case

RESEGMENT = [sys.executable, "-c", "from resegment.cli import main; main()"]


def command(*words: str):
    def side():
        subprocess.run([*RESEGMENT, *words], check=True, stdout=subprocess.DEVNULL)
        yield 1
        subprocess.run([*RESEGMENT, *words], check=True, stdout=subprocess.DEVNULL)

    return side


def python():
    yield 1
    subprocess.run([sys.executable, "-c", "import typer, pydantic, yaml"], check=True)


def waits(name: str, *words: str) -> Case:
    return Case(name, f"resegment {' '.join(words)}", command(*words), seconds=1.5, floor=python,
                floor_is="Python importing typer, pydantic and yaml")  # fmt: skip


CASES = [
    waits("help", "--help"),
    waits("audit", "audit"),
    waits("trace", "trace", "reports/sample-smoke/scores.csv:3"),
]
