"""`python -m landscape` is `linvae`."""

from landscape.cli import main

main()
