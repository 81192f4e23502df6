# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of the table about sessions, points in time and connections."""
import concurrent.futures
import statistics
import time

from benchmark.inputs import BLOCK, GIB, MIB
from benchmark.servers import Control, Server


def far_back(options):
    """Reads a second 1,000 commits back and in the newest generation."""
    def measure(kinds, bench):
        with Server("ext2cow", bench.inputs) as server:
            control = Control(server)
            control.call("create", session="old")
            blocks = bench.inputs.size // BLOCK
            for i in range(1000):
                server.write_block("s", i * 1009 % blocks * BLOCK)
                control.commit("s")
            control.call("create", session="new")
            return {kind: server.rate(["new" if kind == "newest" else "old"],
                                      bench.seconds, *options)
                    for kind in kinds}
    return measure


def deep_stack(options):
    """Reads a second of 100 layers, or of 1 with the same blocks."""
    def measure(kind, bench):
        with Server("ext2cow", bench.inputs) as server:
            control = Control(server)
            blocks = bench.inputs.size // BLOCK
            for i in range(100):
                server.write_block("s", i * 1009 % blocks * BLOCK, i)
                if kind == "ext2cow":
                    control.call("snapshot", session="s", name=f"n{i}")
            return server.rate(["s"], bench.seconds, *options)
    return measure


def point_cost(kind, bench):
    """Snapshots with a clone and a rollback a second, much changed or 1 MiB."""
    much = (1 if bench.quick else 10) * GIB
    image = bench.inputs.shaped_image(much * 5 // 4, much)
    with Server("ext2cow", bench.inputs, image=image, size=much,
                own_image=False) as server:
        server.fill("s", MIB if kind == "1 MiB" else much, "--rw=write",
                    "--bs=1m", "--iodepth=4")
        control = Control(server)
        start = time.monotonic()
        for i in range(5):
            control.call("snapshot", session="s", name=f"n{i}")
            control.call("clone", source=f"s@n{i}", name=f"c{i}")
            control.call("rollback", session="s", name=f"n{i}")
        return 5 / (time.monotonic() - start)


def new_session(kind):
    """An export name that gives each client a disk as if it were new."""
    return "" if kind == "ext2cow" else "s"


def connect_times(kind, bench, count=200):
    """Seconds that each new client takes, one after another."""
    with Server(kind, bench.inputs) as server:
        times = []
        server.visit(new_session(kind))  # the first one opens the image
        for _ in range(count):
            start = time.monotonic()
            server.visit(new_session(kind))
            times.append(time.monotonic() - start)
        return times


def connect_cost(kind, bench):
    """New clients a second, one after another."""
    return 1 / statistics.median(connect_times(kind, bench))


def connect_at_once(kind, bench, count=200):
    """New clients a second, all at once."""
    with Server(kind, bench.inputs) as server:
        server.visit(new_session(kind))  # the first one opens the image
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(count) as clients:
            list(clients.map(server.visit, [new_session(kind)] * count))
        return count / (time.monotonic() - start)


def idle_sessions(bench, count):
    """Bytes of memory for each of `count` sessions, and seconds to start."""
    with Server("ext2cow", bench.inputs) as server:
        control = Control(server)
        before = server.status("VmRSS")
        for i in range(count):
            control.call("create", session=f"s{i}")
        each = (server.status("VmRSS") - before) / count
        server.restart()  # the log of what was made is read again but once
        start = time.monotonic()
        server.restart()
        server.visit("s0")
        return each, time.monotonic() - start


def many_sessions(kind, bench):
    """1 is 4 KiB of memory each or a second to start, the worse of both."""
    if kind != "ext2cow":
        return 1
    each, taken = idle_sessions(bench, 10000)
    bench.note("10,000 sessions, memory each", each, "bytes")
    bench.note("10,000 sessions, start", taken, "s")
    return min(4096 / each, 1 / taken)
