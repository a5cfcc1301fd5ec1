"""Why an answer gets no verdict from a stage of grading."""


class Unreadable(ValueError):
    """A text that isn't mathematics this package reads; says what is in the way."""


class Undecided(Exception):
    """What can't be decided; `reason` says why. Of a job that a worker was given:

    - "time": it ran longer than it may
    - "memory": it needed more than it may
    - "died (signal 11)", "died (status 3)": its process ended under it
    - "ValueError: ...": the function raised that, in 200 characters at most
    - "the pool is closed"
    - "no worker starts: ...": the function can't be imported, say
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NeedsSymbols(Exception):
    """Two expressions that only the symbolic stage can compare."""
