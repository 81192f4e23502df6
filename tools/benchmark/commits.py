# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What commits cost: by what changed, by filesystem, by who else is there."""
import contextlib
import os
import statistics

from benchmark.commit_rows import commit_all
from benchmark.inputs import BLOCK, GIB, MIB, TIB, run, warm
from benchmark.scale import steepest
from benchmark.server_rows import connect_at_once, connect_times
from benchmark.servers import Control, Server

LARGE = 16 * MIB
WARM = 4 * GIB  # what the page cache takes of the largest commits
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
TRACED = "fsync,fdatasync,syncfs,sync_file_range"


def free_space(directory):
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def sizes(bench):
    if bench.quick:
        return [BLOCK, MIB, 16 * MIB]
    # What is committed is in a session and in its image, of both filesystems.
    room = free_space(bench.inputs.directory) > 45 * GIB
    return [BLOCK, MIB, 32 * MIB, GIB] + ([10 * GIB] if room else [])


def pin_counts(bench):
    return (0, 100) if bench.quick else (0, 1, 100)


def pin(server, count):
    """Sessions that each read another generation."""
    control = Control(server)
    for i in range(count):
        control.call("create", session=f"pin{i}")
        server.write_block("s", 0, i)
        control.commit("s")


def commit_time(server, size):
    if size == BLOCK:
        server.write_block("s", 0)
    else:
        server.fill("s", size, "--rw=write", "--bs=1m", "--iodepth=4")
    if size >= LARGE:
        os.sync()
        warm(min(2 * size, WARM))
    return Control(server).commit("s")  # an older connection may be cut


def commits_of(size):
    """How many commits a median is taken of.

    The first large one also pays for the page cache of the image, in memory that
    the host of a virtual machine may have to find (see warm).
    """
    return 15 if size < LARGE else 3


def by_size_with_pins(bench, images, all_sizes, pins):
    """[[(bytes, seconds)] for each image], the images by turns."""
    curves = [[] for _ in images]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(
            "ext2cow", bench.inputs, history=0, image=image,
            size=max(all_sizes))) for image in images]
        for server in servers:
            pin(server, pins)
        for size in all_sizes:
            if size > GIB and pins:
                continue
            bench.progress(f"commits: {size} bytes, {pins} sessions pinned")
            times = [[commit_time(server, size) for server in servers]
                     for _ in range(commits_of(size))]
            for curve, column in zip(curves, zip(*times)):
                curve.append((size, statistics.median(column)))
    return curves


def by_size(bench):
    """{(filesystem, pins): [(bytes, seconds)]}, {filesystem: its name}"""
    all_sizes = sizes(bench)
    disk = max(all_sizes)
    small = (disk * 5 // 4 // GIB + 1) * GIB
    images = [bench.inputs.shaped_image(fs, disk) for fs in (small, TIB)]
    results = {}
    for pins in pin_counts(bench):
        results[small, pins], results[TIB, pins] = by_size_with_pins(
            bench, images, all_sizes, pins)
    return results, {small: f"{small // GIB} GiB", TIB: "1 TiB"}


def syncs_so_far(trace):
    run("sleep", "0.2")  # strace writes its lines a little later
    with open(trace, encoding="utf-8") as lines:
        return sum("sync" in line and "resumed" not in line for line in lines)


def together(bench, count, at_once, traced):
    """Commits a second of sessions with a block each, or syncs for each."""
    trace = bench.inputs.fresh("trace")
    prefix = ("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e",
              f"trace={TRACED}", "-o", trace) if traced else ()
    with Server("ext2cow", bench.inputs, history=0, prefix=prefix) as server:
        names = server.names(count)
        for i, name in enumerate(names):
            server.write_block(name, i * 16 * BLOCK)
        os.sync()
        controls = [Control(server) for _ in names]
        before = syncs_so_far(trace) if traced else 0
        taken = commit_all(controls, names, at_once)
        if traced:
            return (syncs_so_far(trace) - before) / count
        return count / taken


def by_sessions(bench):
    rates, syncs = {}, {}
    for at_once, name in ((True, "at once"), (False, "in turn")):
        for traced, results in ((False, rates), (True, syncs)):
            results[name] = points = []
            for count in (1, 8, 64):
                bench.progress(f"commits: {count} sessions {name}")
                points.append((count, statistics.median(
                    together(bench, count, at_once, traced)
                    for _ in range(1 if traced or bench.quick else 3))))
    return rates, syncs


def measure_sizes(bench):
    results, names = by_size(bench)
    for fs, name in names.items():
        bench.figure("commits", f"a commit, {name} filesystem",
                     x=("changed", "B"), y=("", "s"), log_x=True, log_y=True,
                     series=[(f"{pins or 'none'} pinned", results[fs, pins])
                             for pins in pin_counts(bench)])
        bench.check(f"commit, {name}: growth at its steepest",
                    steepest(results[fs, 0]), "<=", 1.25)  # a bit for noise
    small, large = names
    for pins in pin_counts(bench):
        times = [results[fs, pins][0][1] for fs in (large, small)]
        bench.check(f"commit of a block, {pins or 'none'} pinned: 1 TiB "
                    f"against {names[small]}", times[0] / times[1], "<=", 1.5)


def measure_sessions(bench):
    rates, syncs = by_sessions(bench)
    bench.figure("commits", "sessions committing a block each",
                 x=("sessions", ""), y=("commits", "/s"), log_x=True,
                 series=list(rates.items()))
    bench.figure("commits", "syncs for each of these commits",
                 x=("sessions", ""), y=("", ""), log_x=True,
                 series=list(syncs.items()))
    bench.check("64 sessions: syncs for each commit, at once against in turn",
                syncs["at once"][-1][1] / syncs["in turn"][-1][1], "<=", 0.5)


def measure_connections(bench):
    """A client that comes to a new session, reads and writes a block, goes."""
    delays, rates = [], []
    for kind in ("ext2cow", "file", "nbd-server"):
        bench.progress(f"connections: {kind}")
        times = sorted(connect_times(kind, bench,
                                     200 if bench.quick else 1000))
        delays.append((kind, [(times[len(times) * q // 100], q)
                              for q in PERCENTILES]))
        if kind != "nbd-server":  # its backlog takes few clients at once
            rates.append((kind, [(count, connect_at_once(kind, bench, count))
                                 for count in (1, 8, 64, 200)]))
        bench.note(f"a new client, {kind}", {
            f"p{q}": 1000 * seconds for seconds, q in delays[-1][1]}, "ms")
    bench.figure("commits", "new clients done within a time",
                 x=("connect, read and write a block, close", "s"),
                 y=("", "%"), log_x=True, series=delays)
    bench.figure("commits", "new clients at once", x=("clients", ""),
                 y=("", "/s"), log_x=True, series=rates)


def measure(bench):
    measure_sizes(bench)
    measure_sessions(bench)
    measure_connections(bench)
