"""`python -m cosup` is `cosup`."""

from cosup.cli import main

if __name__ == "__main__":
    main()
