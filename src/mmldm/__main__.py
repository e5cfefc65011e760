"""`python -m mmldm` is the `mmldm` command."""

from mmldm.cli.main import run

run()
