"""`python -m rvq` is `rvq`."""

from rvq.cli import main

main()
