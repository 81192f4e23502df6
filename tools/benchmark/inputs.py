# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disks that are measured: raw, and as a file in ext4 images."""
import functools
import mmap
import os
import shutil
import subprocess

DISK = "/disks/disk.img"
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BLOCK = 4096
LONGEST_EXTENT = 32768  # blocks, in ext4


def run(*line, timeout=600, statuses=(0,), **options):
    """What a program prints; RuntimeError when it fails."""
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=timeout, check=False, **options)
    if done.returncode not in statuses:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr.strip()}")
    return done.stdout


def copy_file(source, target):
    run("cp", "--reflink=auto", "--sparse=always", source, target)


def warm(size):
    """Has the machine `size` bytes of free memory at hand.

    The host of a virtual machine may have taken back what was free for a while:
    the first to use it again then pays up to ten times its usual time.
    """
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS |
                       mmap.MAP_POPULATE)
    memory.close()


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def extent_commands(file_size, extents, first):
    """debugfs commands that give the disk `extents` pieces from block `first`.

    Neighbours in the file are swapped on the device, so that no two make a run.
    """
    piece = file_size // BLOCK // extents
    # While debugfs runs, its own blocks keep out of there.
    yield f"setb {first} {file_size // BLOCK}"
    yield "extent_open disks/disk.img"
    yield "root"
    after = ""
    for i in range(extents):
        start = first + (i ^ 1 if extents > 1 else 0) * piece
        for done in range(0, piece, LONGEST_EXTENT):
            yield (f"insert_node {after}{i * piece + done} "
                   f"{min(LONGEST_EXTENT, piece - done)} {start + done}")
            after = "--after "
    yield "fix_parents"
    yield "extent_close"


class Inputs:
    """Made when first asked for, and kept until the directory goes."""

    def __init__(self, directory, size):
        self.directory, self.size = directory, size
        self.used = 0

    def path(self, name):
        return os.path.join(self.directory, name)

    def fresh(self, name):
        self.used += 1
        return self.path(f"{name}{self.used}")

    @functools.cached_property
    def raw(self):
        """Random bytes as a raw disk."""
        path = self.path("disk.raw")
        with open(path, "wb") as out:
            for _ in range(self.size // MIB):
                out.write(os.urandom(MIB))
        return path

    @functools.cached_property
    def image(self):
        """The same bytes as a file in an ext4 image."""
        path, tree = self.path("fs.img"), self.path("tree")
        os.makedirs(tree + "/disks")
        shutil.copy(self.raw, tree + DISK)
        run("mke2fs", "-q", "-t", "ext4", "-d", tree, path,
            f"{3 * self.size // MIB + 64}M")
        shutil.rmtree(tree)
        return path

    def sparse_raw(self, size):
        """A raw disk of zeroes, for the caller to remove."""
        path = self.fresh("zero")
        with open(path, "wb") as out:
            out.truncate(size)
        return path

    def shaped_image(self, fs_size, file_size, extents=1):
        """A filesystem whose disk lies in `extents` pieces.

        Every block of the disk is allocated and written, yet the image is a
        sparse file: all zeroes but for the metadata, which is kept apart at the
        front of it.
        """
        path = self.path(f"fs-{fs_size}-{file_size}-{extents}")
        if os.path.exists(path):
            return path
        run("mke2fs", "-q", "-t", "ext4", "-b", str(BLOCK), "-N", "1024", "-G",
            "8192", "-J", "size=16", "-O", "sparse_super2,^resize_inode", "-E",
            "packed_meta_blocks=1,num_backup_sb=0", path, f"{fs_size // KIB}k")
        commands = ["mkdir disks", "write /dev/null disks/disk.img",
                    *extent_commands(file_size, extents,
                                     fs_size // BLOCK // 16),
                    f"sif disks/disk.img size {file_size}"]
        run("debugfs", "-w", "-f", "/dev/stdin", path,
            input="\n".join(commands) + "\n")
        # Counts the blocks that the commands took.
        run("e2fsck", "-fy", path, statuses=(1,))
        return path
