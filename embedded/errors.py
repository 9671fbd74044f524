"""What stops ``make run`` and is the user's to mend."""


class EmbeddedError(Exception):
    """The mesh cannot start or go on. The message is one line that names the cause and the remedy."""
