# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of the table about commits; each figure is commits a second."""
import os
import statistics
import time

from benchmark.inputs import BLOCK, GIB, MIB, TIB, copy_file, run, warm
from benchmark.servers import Control, Server

COUNT = 32  # commits of a block that a median is taken of


def qcow2_commit(server):
    """Seconds that qemu-img takes for the overlay of a server, now stopped."""
    server.stop()
    base = server.fresh("base")
    copy_file(server.raw, base)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", base,
        server.overlay)
    os.sync()
    warm(2 * server.inputs.size)
    start = time.monotonic()
    run("qemu-img", "commit", "-q", server.overlay)
    return time.monotonic() - start


def commit(kind, bench, size, history, *options):
    with Server(kind, bench.inputs, history) as server:
        server.fill("s", size, *options)
        os.sync()  # the image's copy is not the commit's work
        if kind == "qcow2":
            return 1 / qcow2_commit(server)
        warm(2 * bench.inputs.size)
        start = time.monotonic()
        server.tool("ext2cow-commit", "s")
        return 1 / (time.monotonic() - start)


def sequential(kind, bench, history=0):
    return commit(kind, bench, bench.inputs.size, history, "--rw=write",
                  "--bs=1m")


def scattered(kind, bench, history=0):
    return commit(kind, bench, bench.inputs.size // 4, history,
                  "--rw=randwrite", "--bs=4k", "--iodepth=16")


def sequential_history(kind, bench):
    return sequential("ext2cow", bench, 0 if kind == "not kept" else 8)


def scattered_history(kind, bench):
    return scattered("ext2cow", bench, 0 if kind == "not kept" else 8)


def at_once(kind, bench):
    """64 sessions commit a block each, at once or in turn."""
    count = 64
    with Server("ext2cow", bench.inputs) as server:
        names = server.names(count)
        for i, name in enumerate(names):
            server.write_block(name, i * 16 * BLOCK)
        os.sync()
        taken = commit_all([Control(server) for _ in names], names,
                           kind == "ext2cow")
        return count / taken


def commit_all(controls, names, at_once):
    """Seconds that the commits of all sessions take."""
    start = time.monotonic()
    if at_once:
        for control, name in zip(controls, names):
            control.ask("commit", session=name)
        for control, name in zip(controls, names):
            control.committed(name)
    else:
        for control, name in zip(controls, names):
            control.commit(name)
    return time.monotonic() - start


def sync_rate(directory):
    """Syncs a second of a block overwritten in a file beside the stores."""
    path = os.path.join(directory, "sync")
    times = []
    with open(path, "wb") as out:
        out.write(bytes(16 * BLOCK))
        out.flush()
        os.fdatasync(out)
        for _ in range(COUNT):
            os.pwrite(out.fileno(), os.urandom(BLOCK), 0)
            start = time.monotonic()
            os.fdatasync(out)
            times.append(time.monotonic() - start)
    os.remove(path)
    return 1 / statistics.median(times)


def block_commits(server):
    """Of a client that stays connected: none waits for another to leave."""
    control = Control(server)
    client = server.connect("s")
    times = []
    for i in range(COUNT):
        server.overwrite(client, i * 2 * BLOCK)
        times.append(control.commit("s"))
    client.shutdown()
    return 1 / statistics.median(times)


def against_sync(kind, bench):
    if kind == "fdatasync":
        rate = sync_rate(bench.inputs.directory)
        bench.note("one fdatasync takes", 1e6 / rate, "us")
        return rate
    with Server("ext2cow", bench.inputs) as server:
        return block_commits(server)


def shaped(kinds, bench, shapes):
    rates = {}
    for kind in kinds:
        image = bench.inputs.shaped_image(*shapes[kind])
        with Server("ext2cow", bench.inputs, image=image) as server:
            rates[kind] = block_commits(server)
    return rates


def large_filesystem(kinds, bench):
    return shaped(kinds, bench, {"ext2cow": (TIB, 512 * MIB),
                                 "1 GiB": (GIB, 512 * MIB)})


def many_extents(kinds, bench):
    """A million extents; to be quick, 65,536."""
    size = 4 * GIB
    return shaped(kinds, bench, {
        "ext2cow": (2 * size, size, 1 << (16 if bench.quick else 20)),
        "1 extent": (2 * size, size)})
