"""`python -m realesr_cli` is the command `realesr`."""

from realesr_cli.process import start

start()
