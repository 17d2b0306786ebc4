"""Hostile input for every parser: well-formed files made by code, then spoiled at random, read in a sandbox.

    python -m tests.fuzz --inputs=100000         all targets, shared by their speed; a table at the end
    python -m tests.fuzz --only=gguf,pickle      these alone
    python -m tests.fuzz --replay                the inputs that were findings once, kept in cases/

target.py     what a parser is given, and how it is called
targets/      one file a family of parsers
mutation.py   what is done to bytes; text.py, to JSON, CSV, XML and other text
sandbox.py    what an input may not do: take memory or time, write, start programs, look outside
runner.py     a process for each target; a crash of the process is a finding as well
cases/        TARGET/HASH, inputs that were findings

An input is either read or refused by a UserError of one line. All else is a finding.
"""

import os

# Weights are read onto the devices of JAX, and a machine with accelerators would wait for them.
os.environ["JAX_PLATFORMS"] = "cpu"
# A process that has threads cannot be forked.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
