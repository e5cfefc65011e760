"""`python -m mmldm`: the command line."""

from mmldm.cli.main import run

if __name__ == "__main__":
    run()
