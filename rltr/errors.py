"""The one exception that is meant for the person at the keyboard."""


class RltrError(ValueError):
    """Something the user can mend: the message says what happened, the likely cause and the exact fix.

    The command line prints it as one line and ends with exit code 2. Anything else that is raised is a bug.
    """
