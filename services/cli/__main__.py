"""`python -m services.cli` is `keyledger`."""

from services.cli import main

main()
