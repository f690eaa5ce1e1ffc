"""Does memory stay flat as a corpus grows? Runs one job on the sample corpus and on ten copies of it.

    python -m benchmarks.memory                  # anonymize and audit
    python -m benchmarks.memory --job anonymize  # the anonymizing half alone, minutes instead of an hour

Prints, for each size, the peak resident memory of the driver and of the largest worker, and the time an utterance.
Resident memory counts shared pages (the object store, libraries) in every process that touched them.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from pipelines.terminal import SAMPLE

MIB = 1 << 20


def repeat_sample(path: Path, copies: int) -> int:
    """Write the sample corpus `copies` times over, with ids of its own for each copy; return the number of rows."""
    table = pq.read_table(SAMPLE)
    rows = table.to_pylist()
    audio = {row["utt_id"]: (SAMPLE.parent / row["audio"]["path"]).read_bytes() for row in rows}
    with pq.ParquetWriter(path, table.schema) as writer:
        for copy in range(copies):
            embedded = [
                row | {"utt_id": f"{row['utt_id']}-{copy}", "audio": {"bytes": audio[row["utt_id"]], "path": None}}
                for row in rows
            ]
            writer.write_table(type(table).from_pylist(embedded, schema=table.schema))
    return len(rows) * copies


def watch(process: psutil.Process, peaks: dict[str, int], stop: threading.Event) -> None:
    """Keep the peak resident bytes of the driver and of the largest actor under it until told to stop."""
    while not stop.wait(0.5):
        try:
            peaks["driver"] = max(peaks["driver"], process.memory_info().rss)
            for child in process.children(recursive=True):
                if "MapWorker" in " ".join(child.cmdline()):
                    peaks["worker"] = max(peaks["worker"], child.memory_info().rss)
        except psutil.Error:
            continue


def measure(job: str, copies: int, folder: Path) -> dict[str, float]:
    """Run one job on so many copies and return rows, seconds and peaks in MiB."""
    index = folder / f"sample-{copies}.parquet"
    rows = repeat_sample(index, copies)
    command = [sys.executable, "-m", "pipelines", job, "--index", str(index), "--name", f"copies-{copies}"]
    command += ["--anonymizer", "mcadams"]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--output", str(folder)], stderr=subprocess.DEVNULL)
    peaks, stop = {"driver": 0, "worker": 0}, threading.Event()
    watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), peaks, stop))
    watcher.start()
    code = process.wait()
    stop.set()
    watcher.join()
    if code not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return {"rows": rows, "seconds": time.monotonic() - started} | {name: peak / MIB for name, peak in peaks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", choices=("audit", "anonymize"), default="audit")
    parser.add_argument("--copies", type=int, nargs=2, default=(1, 10))
    options = parser.parse_args()
    print(f"{'rows':>6} {'driver MiB':>11} {'worker MiB':>11} {'s an utterance':>15}")
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(options.job, copies, Path(folder)) for copies in options.copies]
    for result in results:
        each = result["seconds"] / result["rows"]
        print(f"{result['rows']:6.0f} {result['driver']:11.0f} {result['worker']:11.0f} {each:15.2f}")
    small, large = results
    print(f"ratio  {large['driver'] / small['driver']:11.2f} {large['worker'] / small['worker']:11.2f}")


if __name__ == "__main__":
    main()
