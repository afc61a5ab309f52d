"""`python -m realesr_cli` is the command `realesr`."""

from realesr_cli.cli.main import start

start()
