"""Changed files for the readers, chosen by the lines of corrsk that they reach (atheris).

    python -m tests.fuzz_coverage --runs 10000
    python -m tests.fuzz_coverage --reader "protocol, .json" --seconds 60

needs atheris (extra `fuzz`, Linux). It changes the bytes of a good file at random, and those of
the files that reach new branches of corrsk; the readers and faults are those of tests.fuzz. The
script prints a table with the numbers of branches that the good file and all files reach. A reader
ends at its first fault, whose traceback is printed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ROW = "{:30} {:>8} {:>10} {:>9} {:>7}"


def fuzz_one(name: str, options: list[str]) -> None:
    """Fuzz a reader in this process, which ends then."""
    import atheris

    with atheris.instrument_imports(include=["corrsk"]):
        from tests import fuzz
    folder = Path(tempfile.mkdtemp())
    fuzzer = fuzz.Fuzzer(name, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(fuzzer.content)

    def test_one(content: bytes) -> None:
        outcome = fuzzer.outcome_of(content)
        if outcome not in ("read", "refused"):
            raise RuntimeError(outcome)

    limits = [
        f"-max_len={4 * len(fuzzer.content)}", "-len_control=0", f"-artifact_prefix={folder}/",
        "-timeout=60", "-rss_limit_mb=4000",
    ]  # fmt: skip
    atheris.Setup(["fuzz", *limits, *options, str(corpus)], test_one)
    atheris.Fuzz()


def result_of(log: str) -> tuple[int, int, int]:
    """Numbers of runs, and of branches at the start and at the end, of a log of libFuzzer."""
    rows = re.findall(r"^#(\d+)\s+\w+ +cov: (\d+)", log, re.MULTILINE)
    if not rows:
        return 0, 0, 0
    return int(rows[-1][0]), int(rows[0][1]), int(rows[-1][1])


def main() -> int:
    """Fuzz the readers one after the other; return whether there was a fault."""
    from tests import fuzz

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=fuzz.READERS, action="append")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=3600)
    given = parser.parse_args()
    print(_ROW.format("reader", "runs", "good file", "all files", "faults"), flush=True)
    n_faults = 0
    for name in given.reader or fuzz.READERS:
        options = [f"-runs={given.runs}", f"-max_total_time={given.seconds}", "-seed=1"]
        code = f"from tests.fuzz_coverage import fuzz_one; fuzz_one({name!r}, {options!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        log = done.stdout + done.stderr
        fault = done.returncode != 0
        n_faults += fault
        print(_ROW.format(name, *result_of(log), int(fault)), flush=True)
        if fault:
            print(log[-3000:], flush=True)
    return min(n_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
