"""``python -m rltr`` is the command ``rltr``."""

from rltr.cli import main

if __name__ == "__main__":
    main()
