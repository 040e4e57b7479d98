"""`python -m tellapart` is the command `tellapart`."""

from tellapart.cli import run

if __name__ == "__main__":
    run()
