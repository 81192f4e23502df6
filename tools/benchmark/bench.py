# SPDX-FileCopyrightText: The ext2cow authors
# SPDX-License-Identifier: LGPL-2.1-or-later
"""One run: how much is measured, on what, and what was found."""
import subprocess

import nbd

from benchmark import report, table
from benchmark.inputs import MIB, Inputs


class Bench(report.Report):
    def __init__(self, options, directory):
        super().__init__(options)
        self.rounds, self.quick = options.rounds, options.quick
        self.seconds = 1 if options.quick else 4
        self.inputs = Inputs(directory, (128 if options.quick else 1024) * MIB)
        self.progress = report.progress

    def attempt(self, name, part):
        """One that can't be measured does not keep the others from it."""
        try:
            part()
        except (RuntimeError, OSError, nbd.Error,
                subprocess.SubprocessError) as error:
            self.error(name, error)

    def rows(self, row):
        for result in table.measure(row, self):
            self.row(result)
