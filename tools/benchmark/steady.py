# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long writes into one session: does it keep its pace, what does it cost?

Every block of a disk is written once in random order, then all of them in a
stream. nbdkit's file plugin does the same on a raw disk, to show what the
machine's own disk does.
"""
import os
import threading

from benchmark.inputs import GIB, MIB, remove
from benchmark.servers import Server

# Name, the most bytes to disk for each from a client, fio's options.
PHASES = (("random 4K", 3,
           ("--rw=randwrite", "--bs=4k", "--iodepth=16")),
          ("1M stream", 1.3, ("--rw=write", "--bs=1m", "--iodepth=4")))


def disk_usage(directory):
    """Bytes of disk that a folder's files take."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


class Sampler:
    """Calls a function every second; `points` are (seconds, value)."""

    def __init__(self, sample):
        self.sample, self.points = sample, []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while True:
            self.points.append((len(self.points), self.sample()))
            if self.done.wait(1):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def bandwidth(path):
    """(second, bytes a second) from a log of fio's."""
    points = []
    with open(path, encoding="utf-8") as log:
        for line in log:
            milliseconds, rate = line.split(",")[:2]
            points.append((round(int(milliseconds) / 1000, 1),
                           int(rate) * 1024))
    return points


def write_phase(server, size, interval, options):
    """Writes `size` bytes: the pace, the longest wait, and what they cost."""
    prefix = server.fresh("log")
    flusher = server.connect()
    usage = Sampler(lambda: disk_usage(getattr(server, "store", prefix)))
    before = server.written()
    with usage:
        report = server.fio(["s"], f"--io_size={size}",
                            f"--bwavgtime={interval}",
                            f"--log_avg_msec={interval}",
                            f"--write_bw_log={prefix}", *options, timeout=3600)
        flusher.flush()
        os.sync()  # what is still in the cache is on its way
        flusher.shutdown()
    log = prefix + "_bw.1.log"
    points = bandwidth(log)
    remove(log)
    rates = [rate for _, rate in points]
    quarter = max(len(points) // 4, 1)
    return {"rate": points, "space": usage.points,
            "bytes_a_second": report["jobs"][0]["write"]["bw_bytes"],
            "longest_wait": report["jobs"][0]["write"]["clat_ns"]["max"] / 1e9,
            "pace": sum(rates[-quarter:]) / max(sum(rates[:quarter]), 1),
            "amplification": (server.written() - before) / size}


def write_all(bench, kind, disk):
    inputs, results = bench.inputs, {}
    source = ({"raw": inputs.sparse_raw(disk)} if kind == "file" else
              {"image": inputs.shaped_image(disk * 5 // 4, disk),
               "own_image": False})
    with Server(kind, inputs, size=disk, **source) as server:
        for name, _, options in PHASES:
            bench.progress(f"steady: {kind}, {name}")
            results[name] = result = write_phase(
                server, disk, 100 if bench.quick else 1000, options)
            if kind == "ext2cow":
                seconds = result["space"][-1][0] + 1
                result["space"].append((seconds, disk_usage(server.store)))
    if kind == "file":
        remove(source["raw"])
    return results


def measure(bench, gib):
    disk = int(gib * GIB) // 2 // MIB * MIB
    results = {kind: write_all(bench, kind, disk)
               for kind in ("ext2cow", "file")}
    for name, amplification, _ in PHASES:
        ours, limit = results["ext2cow"][name], results["file"][name]
        bench.check(f"{name}: longest wait of a request",
                    ours["longest_wait"], "<=", 1, "s",
                    f"file: {limit['longest_wait']:.2f}")
        bench.check(f"{name}: last quarter against first", ours["pace"],
                    ">=", 0.5, "", f"file: {limit['pace']:.2f}")
        bench.check(f"{name}: bytes to disk for each written",
                    ours["amplification"], "<=", amplification, "",
                    f"file: {limit['amplification']:.2f}")
        bench.check(f"{name}: space used against live data",
                    ours["space"][-1][1] / disk, "<=", 1.5)
        bench.figure("steady", f"{name}, {disk / GIB:g} GiB into a session",
                     x=("time", "s"), y=("written", "B/s"),
                     series=[(k, results[k][name]["rate"]) for k in results])
    space, offset = [], 0
    for name, _, _ in PHASES:
        points = results["ext2cow"][name]["space"]
        space += [(offset + x, y) for x, y in points]
        offset = space[-1][0] + 1
    bench.figure("steady", "space that the store takes", x=("time", "s"),
                 y=("disk", "B"), series=[("ext2cow", space)],
                 limits=[("1.5 times the live data", 1.5 * disk)])
