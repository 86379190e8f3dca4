"""What can go wrong, in one small family: catch VidretError to catch them all."""


class VidretError(Exception):
    """Say in one sentence what is wrong: a rule and the value that broke it, or a path and the reason."""


class DecodeError(VidretError):
    """Name a file that cannot be read as video, and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        """Keep the path and the reason apart, so that a report can show each."""
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        """Read as one sentence, without the query string of an address: it may hold a signature."""
        return f"{self.path.partition('?')[0] if '://' in self.path else self.path}: {self.reason}"


class UnreachableError(DecodeError):
    """Name a file at an address that could not be had now, though it may well be there."""

    def __init__(self, path: str, reason: str, *, answered: bool = True) -> None:
        """Keep whether its store gave an answer at all."""
        super().__init__(path, reason)
        self.answered = answered


class DecoderFailedError(DecodeError):
    """Name a file at which the decoder failed in a way that nobody foresaw; the file need not be the cause."""


class ChangedError(DecodeError):
    """Name a file that holds another content than it did."""


class EncoderError(VidretError):
    """Say why an encoder cannot be loaded or trusted."""


class DeviceError(VidretError):
    """Say why a device cannot be computed on."""


class AlignerError(VidretError):
    """Say why an aligner cannot be loaded."""


class StoreError(VidretError):
    """Say why an index cannot be opened, read or written."""


class MissingExtraError(VidretError):
    """Name the optional dependency that the asked-for feature needs."""

    def __init__(self, feature: str, extra: str) -> None:
        """Give the command that installs it."""
        super().__init__(f'{feature} needs the extra "{extra}": pip install "vidret[{extra}]"')
        self.extra = extra
