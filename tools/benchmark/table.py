# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of ratios: ext2cow beside its peers, work by work.

A row measures its contestants one after another, each round in the other order.
All figures are rates (more is better), and a row's result is the median of the
rounds' ratios ext2cow / peer. A ceiling is what a server reaches against the
same peers that does nothing but copy, nbdkit's file for reads and its memory, a
RAM disk, for writes: where fio and the server fill all processors, no server
does much better.
"""
import statistics

from benchmark import commit_rows, server_rows
from benchmark.inputs import MIB, warm
from benchmark.servers import Server

RANDOM_4K = ("--bs=4k", "--iodepth=16")
STREAM_1M = ("--bs=1m", "--iodepth=4")
READ_4K = ("--rw=randread", *RANDOM_4K)
WRITE_4K = ("--rw=randwrite", *RANDOM_4K)
SYNC_4K = ("--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1")
MIXED_4K = ("--rw=randrw", "--rwmixread=70", *RANDOM_4K)


class Row:
    """`measure(kinds, bench)` gives a rate for each kind of contestant.

    `ceiling` is a kind, too. `counts` tells whether a round's rates are such that
    the target holds for them.
    """

    def __init__(self, name, measure, *peers, ceiling=None,
                 counts=lambda rates: True):
        self.name, self.measure, self.peers = name, measure, peers
        self.ceiling, self.counts = ceiling, counts


def apart(measure):
    return lambda kinds, bench: {k: measure(k, bench) for k in kinds}


def clients(count, *options, filled=False, ext2_in_turn=False):
    """Operations a second of `count` clients through fio."""
    def measure(kind, bench):
        with Server(kind, bench.inputs) as server:
            in_turn = ext2_in_turn and kind == "ext2"
            names = server.names(1 if in_turn else count)
            if filled:
                server.fill(names[0], 64 * MIB, "--rw=write", *STREAM_1M)
            warm(2 * bench.inputs.size)
            return server.rate(names, bench.seconds, *options)
    return apart(measure)


ROWS = [
    Row("4K random read", clients(1, *READ_4K), ("file", 0.95)),
    Row("the same, pinned 1,000 commits back",
        server_rows.far_back(READ_4K), ("newest", 0.9)),
    Row("4K random read, 8 clients",
        clients(8, *READ_4K, ext2_in_turn=True), ("ext2", 6), ceiling="file"),
    Row("4K random write", clients(1, *WRITE_4K),
        ("cow", 1.2), ("qcow2", 1.8), ceiling="memory"),
    Row("4K write and flush", clients(1, *SYNC_4K), ("qcow2", 1.5)),
    Row("1M sequential write", clients(1, "--rw=write", *STREAM_1M),
        ("cow", 0.8), ("qcow2", 2)),
    Row("1M sequential read, image", clients(1, "--rw=read", *STREAM_1M),
        ("file", 0.9)),
    Row("1M sequential read, overlay",
        clients(1, "--rw=read", *STREAM_1M, filled=True), ("file", 0.8)),
    Row("8 clients, 70/30 mixed", clients(8, *MIXED_4K),
        ("cow", 0.9), ("qcow2", 2.5), ceiling="memory"),
    Row("commit, sequential", apart(commit_rows.sequential), ("qcow2", 1.1)),
    Row("commit, random 4K", apart(commit_rows.scattered), ("qcow2", 2)),
    Row("commit, sequential, history kept",
        apart(commit_rows.sequential_history), ("not kept", 0.45)),
    Row("commit, random 4K, history kept",
        apart(commit_rows.scattered_history), ("not kept", 0.45)),
    Row("commit of a block, 1 TiB filesystem",
        commit_rows.large_filesystem, ("1 GiB", 1 / 1.5)),
    Row("commit of a block, many extents",
        commit_rows.many_extents, ("1 extent", 1 / 1.5)),
    Row("commit of a block", apart(commit_rows.against_sync),
        ("fdatasync", 1 / 8),
        counts=lambda rates: rates["fdatasync"] <= 1 / 100e-6),
    Row("64 commits at once", apart(commit_rows.at_once), ("in turn", 4)),
    Row("snapshot, clone, rollback of much",
        apart(server_rows.point_cost), ("1 MiB", 1 / 1.5)),
    Row("100 layers, 4K random read",
        apart(server_rows.deep_stack(READ_4K)), ("1 layer", 0.9)),
    Row("connect, read, write, close", apart(server_rows.connect_cost),
        ("file", 1 / 1.5), ("nbd-server", 1 / 1.5)),
    Row("the same, 200 at once", apart(server_rows.connect_at_once),
        ("file", 1 / 1.5)),
    Row("10,000 sessions", apart(server_rows.many_sessions),
        ("4 KiB, 1 s", 1)),
]


def measure(row, bench):
    """A result for each peer of the row."""
    peers = [peer for peer, _ in row.peers]
    kinds = ["ext2cow", *peers, *([row.ceiling] if row.ceiling else [])]
    rounds = []
    for number in range(bench.rounds):
        bench.progress(f"{row.name}: round {number + 1} of {bench.rounds}")
        rounds.append(row.measure(kinds[::-1] if number % 2 else kinds, bench))
    for peer, target in row.peers:
        ratios = [rates["ext2cow"] / rates[peer] for rates in rounds]
        result = {"work": row.name, "peer": peer, "target": round(target, 3),
                  "median": statistics.median(ratios), "ratios": ratios,
                  "counts": sum(map(row.counts, rounds)) > len(rounds) / 2,
                  "rates": {kind: [rates[kind] for rates in rounds]
                            for kind in ("ext2cow", peer)}}
        if row.ceiling:
            result["ceiling"] = statistics.median(
                rates[row.ceiling] / rates[peer] for rates in rounds)
        yield result


def missed(result):
    return result["counts"] and result["median"] < result["target"]


def text(result):
    spread = f"{min(result['ratios']):.2f}..{max(result['ratios']):.2f}"
    ceiling = f"{result['ceiling']:.2f}" if "ceiling" in result else ""
    word = "MISSED" if missed(result) else ""
    if not result["counts"]:
        word = "does not count here"
    return (f"{result['work']:36} {result['peer']:11} {result['target']:6.2f} "
            f"{result['median']:7.2f} {spread:>14} {ceiling:>7} "
            f"{word}").rstrip()


HEADING = (f"{'work':36} {'against':11} {'target':>6} {'median':>7} "
           f"{'spread':>14} {'ceiling':>7}")
