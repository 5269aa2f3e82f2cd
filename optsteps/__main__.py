"""`python -m optsteps` is the command `optsteps`."""

from optsteps.cli.run import main

if __name__ == "__main__":
    main()
