"""`python -m openvocab` is the command line."""

from openvocab.cli import main

main()
