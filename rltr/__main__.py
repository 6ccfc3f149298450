"""``python -m rltr`` is the command ``rltr``."""

from rltr.commands.main import main

if __name__ == "__main__":
    main()
