"""The error that is caused by user input; its message says how to fix it."""


class RltrError(ValueError):
    """Something the user can mend: the message says what happened, the likely cause and the exact fix.

    The command line prints it as one line and ends with exit code 2. Anything else that is raised is a bug.
    """
