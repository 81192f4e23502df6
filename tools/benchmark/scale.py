# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How cost grows: with clients, idle sessions, the image's size, extents."""
import time

from benchmark.inputs import GIB, MIB, TIB, remove
from benchmark.server_rows import idle_sessions
from benchmark.servers import Server

CACHE = 256 * MIB  # the default of ext2cow-cache
BOUND = CACHE + 64 * MIB  # of memory, beyond what nbdkit's file plugin takes
READ = ("--rw=randread", "--bs=4k", "--iodepth=16", "--norandommap")
WRITE = ("--rw=randwrite", "--bs=4k", "--iodepth=16", "--norandommap")
KINDS = ("ext2cow", "file")


def first_read(server):
    """Seconds that a client takes to connect and read a block."""
    start = time.monotonic()
    handle = server.connect("s0" if server.kind == "ext2cow" else "s")
    handle.pread(4096, server.size // 2)
    taken = time.monotonic() - start
    handle.shutdown()
    return taken


def load(bench, kind, size, image, count=1):
    """Start, first open, throughput and memory of a server under load."""
    raw = bench.inputs.sparse_raw(size)
    start = time.monotonic()
    with Server(kind, bench.inputs, image=image, raw=raw, size=size,
                own_image=False) as server:
        result = {"start": time.monotonic() - start}
        result["open"] = first_read(server)
        names = server.names(count)
        result["read"] = server.rate(names, bench.seconds, *READ)
        result["write"] = server.rate(names, min(bench.seconds, 2), *WRITE)
        result["memory"] = server.status("VmHWM")
    remove(raw)
    return result


def curve(bench, name, points):
    """`points`: (x, what `load` wants). {kind: [(x, result)]}."""
    results = {kind: [] for kind in KINDS}
    for x, source in points:
        for kind in KINDS:
            bench.progress(f"scale: {name} {x}, {kind}")
            results[kind].append((x, load(bench, kind, **source)))
    return results


def series(results, key, kinds=KINDS):
    return [(kind, [(x, result[key]) for x, result in results[kind]])
            for kind in kinds]


def steepest(points):
    """The most that y grew for what x did between neighbours."""
    return max((y1 / y0) / (x1 / x0)
               for (x0, y0), (x1, y1) in zip(points, points[1:]))


def show(bench, results, name, unit, keys):
    titles = {"open": ("first open and read", "s"),
              "start": ("start of the server", "s"),
              "read": ("4K random read", "/s"),
              "write": ("4K random write", "/s"),
              "memory": ("memory at most", "B")}
    for key in keys:
        what, y_unit = titles[key]
        bound = [(x, peer["memory"] + BOUND) for x, peer in results["file"]]
        bench.figure("scale", f"{what}, by {name}", x=(name, unit),
                     y=("", y_unit), series=series(results, key),
                     limits=[("bound", bound)] if key == "memory" else [],
                     log_x=True, log_y=key in ("open", "start"))
        if key in ("open", "memory"):
            (_, points), = series(results, key, ("ext2cow",))
            bench.check(f"{what}, by {name}: growth at its steepest",
                        steepest(points), "<=", 1)
    beyond = max(ours["memory"] - peer["memory"] for (_, ours), (_, peer)
                 in zip(results["ext2cow"], results["file"]))
    bench.check(f"memory beyond nbdkit file's, by {name}", beyond / MIB, "<=",
                BOUND / MIB, "MiB")


def by_clients(bench):
    counts = (1, 8) if bench.quick else (1, 8, 64, 256)
    image = bench.inputs.shaped_image(2 * GIB, GIB)
    results = curve(bench, "clients", [
        (n, {"count": n, "size": GIB, "image": image}) for n in counts])
    show(bench, results, "clients", "", ("read", "write", "memory"))
    for key in () if bench.quick else ("read", "write"):
        (_, points), = series(results, key, ("ext2cow",))
        bench.check(f"4K random {key}, most clients against 8",
                    points[-1][1] / points[1][1], ">=", 8 / counts[-1])


def by_size(bench):
    """Filesystems whose disk takes nine tenths of them."""
    sizes = (GIB, 32 * GIB) if bench.quick else (GIB, 32 * GIB, TIB)
    points = []
    for fs in sizes:
        disk = fs * 900 // 1024 // MIB * MIB
        points.append((disk, {"size": disk, "image":
                              bench.inputs.shaped_image(fs, disk)}))
    results = curve(bench, "size of the file", points)
    show(bench, results, "size of the file", "B",
         ("start", "open", "memory", "read", "write"))


def by_extents(bench):
    counts = (1, 1 << 16) if bench.quick else (1, 1 << 10, 1 << 16, 1 << 20)
    size = 4 * GIB
    points = []
    for count in counts:
        bench.progress(f"scale: making {count} extents")
        image = bench.inputs.shaped_image(2 * size, size, count)
        points.append((count, {"size": size, "image": image}))
    results = curve(bench, "extents", points)
    show(bench, results, "extents", "", ("open", "memory", "read", "write"))


def by_idle_sessions(bench):
    counts = (100, 1000) if bench.quick else (100, 1000, 10000)
    memory, start = [], []
    for count in counts:
        bench.progress(f"scale: {count} idle sessions")
        each, taken = idle_sessions(bench, count)
        memory.append((count, max(each * count, 1)))
        start.append((count, taken))
    bench.figure("scale", "memory for idle sessions, by sessions",
                 x=("sessions", ""), y=("", "B"), log_x=True, log_y=True,
                 series=[("ext2cow", memory)],
                 limits=[("4 KiB each", [(n, 4096 * n) for n in counts])])
    bench.figure("scale", "start and first visit, by idle sessions",
                 x=("sessions", ""), y=("", "s"), log_x=True,
                 series=[("ext2cow", start)], limits=[("1 s", 1)])
    if not bench.quick:
        bench.check("10,000 idle sessions: memory each",
                    memory[-1][1] / counts[-1], "<=", 4096, "B")
        bench.check("10,000 idle sessions: start", start[-1][1], "<=", 1, "s")


def measure(bench):
    by_clients(bench)
    by_idle_sessions(bench)
    by_size(bench)
    by_extents(bench)
