"""What bad input raises: every exception a user may want to catch derives from `RvqError`."""


class RvqError(Exception):
    """Base of all errors raised for bad input; its message is one sentence that says what to do."""


class InputError(RvqError, ValueError):
    """Audio, vectors or settings that cannot be used: wrong shape, empty, NaN, out of range."""


class FormatError(RvqError):
    """A compressed file that is not one, is damaged, or was written by a newer version."""


class ModelError(RvqError):
    """A model that is missing, damaged, or not the one a file was compressed with."""
