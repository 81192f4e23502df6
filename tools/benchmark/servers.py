# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The servers that are measured, and their clients."""
import json
import os
import signal
import socket
import subprocess
import time

import nbd

from benchmark.inputs import BLOCK, DISK, copy_file, remove, run

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("BUILD", "build"))
FILTER = os.path.join(BUILD, "nbdkit-ext2cow-filter.so")
DEADLINE = 60  # seconds for a server to start, or to stop


def listens(path):
    with open("/proc/net/unix", encoding="utf-8") as sockets:
        for line in sockets:
            fields = line.split()
            if fields[-1] == path and fields[3] == "00010000":
                return True
    return False


class Server:
    """One contestant, serving on a socket of its own until the block ends.

    `image` (of ext2cow) and `raw` (of the others) stand for the usual inputs,
    `size` is that of the disk in them; with `own_image` ext2cow serves a copy,
    which commits may change.
    """

    def __init__(self, kind, inputs, history=8, image="", raw="", size=0,
                 own_image=True, prefix=()):
        self.kind, self.inputs, self.history = kind, inputs, history
        self.image, self.raw, self.own_image = image, raw, own_image
        self.size = size or inputs.size
        self.prefix = list(prefix)
        self.made, self.held = [], []

    def fresh(self, name):
        self.made.append(self.inputs.fresh(name))
        return self.made[-1]

    def line(self):
        nbdkit = ["nbdkit", "-f", "-U", self.socket]
        if self.kind == "ext2cow":
            return nbdkit + self.ext2cow_arguments()
        if self.kind == "ext2":
            return nbdkit + ["--filter=ext2", "file", self.inputs.image,
                             f"ext2file={DISK}"]
        if self.kind == "memory":
            return nbdkit + ["memory", str(self.size)]
        self.raw = self.raw or self.inputs.raw
        if self.kind == "file":
            return nbdkit + ["file", self.raw]
        if self.kind == "cow":
            return nbdkit + ["--filter=cow", "file", self.raw,
                             "cow-block-size=4096"]
        if self.kind == "nbd-server":
            return self.nbd_server_line()
        self.overlay = self.fresh("overlay")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.raw, "-F",
            "raw", self.overlay)
        return ["qemu-nbd", "-k", self.socket, "-t", "-e", "64",
                "--cache=writeback", "-f", "qcow2", "-x", "s", self.overlay]

    def ext2cow_arguments(self):
        self.store = self.fresh("store")
        source = self.image or self.inputs.image
        image = source
        if self.own_image:
            image = self.fresh("image")
            copy_file(source, image)
        return ["--filter=" + FILTER, "file", image, f"ext2file={DISK}",
                f"ext2cow-store={self.store}",
                f"ext2cow-history={self.history}"]

    def nbd_server_line(self):
        config = self.fresh("nbd.conf")
        with open(config, "w", encoding="utf-8") as out:
            out.write(f"[generic]\nunixsock = {self.socket}\n[s]\n"
                      f"exportname = {self.raw}\ncopyonwrite = true\n"
                      f"cowdir = {self.inputs.directory}\n")
        # With -d it would serve one connection only.
        return ["nbd-server", "-C", config, "-p", self.pidfile]

    def start(self):
        if self.command is None:
            self.socket = self.fresh("sock")
            self.pidfile = self.fresh("pid")
            self.command = self.prefix + self.line()
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if listens(self.socket):
                return self
            if self.process.poll() not in (None, 0):  # 0: it forked
                break
            time.sleep(0.002)
        self.process.kill()
        raise RuntimeError(f"{self.kind} does not start")

    def stop(self, how=signal.SIGTERM):
        if self.kind == "nbd-server":
            with open(self.pidfile, encoding="utf-8") as pid:
                os.kill(int(pid.read()), how)
        else:
            self.process.send_signal(how)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self):
        self.stop()
        os.remove(self.socket)
        self.start()

    def __enter__(self):
        self.command = None
        return self.start()

    def __exit__(self, *_):
        """Kills it: what it wrote is removed, mostly before it is on disk."""
        self.stop(signal.SIGKILL)
        for path in self.made:
            remove(path)

    def uri(self, name="s"):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def names(self, count):
        """Export names for `count` clients, each with a session of its own."""
        own = self.kind == "ext2cow"
        return [f"s{i}" if own else "s" for i in range(count)]

    def connect(self, name="s"):
        handle = nbd.NBD()
        handle.connect_uri(self.uri(name))
        return handle

    @staticmethod
    def overwrite(handle, offset, byte=1):
        handle.pwrite(bytes([byte]) * BLOCK, offset, nbd.CMD_FLAG_FUA)

    def write_block(self, name, offset, byte=1):
        handle = self.connect(name)
        self.overwrite(handle, offset, byte)
        handle.shutdown()

    def visit(self, name):
        """A new client reads and writes a block and leaves."""
        handle = self.connect(name)
        handle.pread(BLOCK, 0)
        handle.pwrite(b"1" * BLOCK, 2 * BLOCK)
        handle.shutdown()

    def fio(self, names, *options, timeout=600):
        """fio's report, as an object, on one client for each name."""
        line = ["fio", "--output-format=json", "--thread", "--ioengine=nbd",
                f"--size={self.size}", *options]
        for number, name in enumerate(names):
            line += [f"--name=j{number}", f"--uri={self.uri(name)}"]
        text = run(*line, timeout=timeout)  # notes may stand before the JSON
        return json.loads(text[text.index("{"):])

    def rate(self, names, seconds, *options):
        """Operations a second of all clients together.

        Other connections keep the sessions open, which are thus not flushed
        when fio leaves. Where discard is on, removing files that were written
        in random order takes minutes once they are on disk. (Of many clients
        the others' threads would count in a measure of memory.)
        """
        if self.kind == "ext2cow" and len(names) <= 8:
            self.held += [self.connect(name) for name in names]
        done = self.fio(names, f"--runtime={seconds}", "--time_based",
                        *options)["jobs"]
        return sum(j["read"]["iops"] + j["write"]["iops"] for j in done)

    def fill(self, name, size, *options):
        """Writes `size` bytes and flushes."""
        self.fio([name], f"--io_size={size}", "--end_fsync=1", *options)

    def tool(self, name, *arguments):
        return run(os.path.join(BUILD, name), "--store", self.store, *arguments)

    def status(self, key):
        """A field of /proc/PID/status, in bytes: VmRSS now, VmHWM at most."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as text:
            for line in text:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {key}")

    def written(self):
        """Bytes that the process sent, or will send, to the disk.

        The kernel counts a page when it becomes dirty, and apart from that the
        pages that were removed before they reached the disk.
        """
        with open(f"/proc/{self.process.pid}/io", encoding="utf-8") as text:
            counts = dict(line.split(": ") for line in text)
        return (int(counts["write_bytes"]) -
                int(counts["cancelled_write_bytes"]))


class Control:
    """A connection to the control socket: a tool without its start."""

    def __init__(self, server):
        path = server.store + "/control.sock"
        deadline = time.monotonic() + DEADLINE
        while not listens(path) and time.monotonic() < deadline:
            time.sleep(0.002)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")

    def ask(self, method, **params):
        request = {"jsonrpc": "2.0", "id": 1, "method": method,
                   "params": params}
        self.socket.sendall((json.dumps(request) + "\n").encode())

    def answer(self):
        for line in self.lines:
            message = json.loads(line)
            if "error" in message:
                raise RuntimeError(message["error"]["message"])
            if "id" in message:
                return message["result"]
        raise RuntimeError("the server closed the control socket")

    def call(self, method, **params):
        self.ask(method, **params)
        return self.answer()

    def commit(self, session):
        """Seconds that a commit takes."""
        start = time.monotonic()
        self.ask("commit", session=session)
        self.committed(session)
        return time.monotonic() - start

    def committed(self, session):
        if self.answer()["result"] != "committed":
            raise RuntimeError(f"{session} was not committed")
