"""The text of one row as it grows: what may be shown already, and where a stop text ends it."""

from __future__ import annotations

from collections.abc import Sequence

from .tokenizer import IncrementalDecoder


class TextStream:
    """Text of tokens that come one by one, cut before the first stop text.

    What `push` and `close` return, joined, is `text`. Text that could be the beginning of a stop
    text is held back until it cannot.
    """

    def __init__(self, decoder: IncrementalDecoder, stop_texts: Sequence[str]) -> None:
        """`stop_texts` must not be empty strings."""
        self._decoder = decoder
        self._stop_texts = stop_texts
        self._held = ""
        self.text = ""
        """All text given out so far."""
        self.stopped = False
        """True once a stop text has come."""

    def push(self, token: int) -> str:
        """The text that `token` makes certain; after a stop text always empty."""
        return "" if self.stopped else self._take(self._decoder.push(token))

    def close(self) -> str:
        """The text that was held back, once no token follows."""
        if self.stopped:
            return ""
        shown = self._take(self._decoder.close())
        rest, self._held = self._held, ""
        self.text += rest
        return shown + rest

    def _take(self, new: str) -> str:
        self._held += new
        found = [at for stop in self._stop_texts if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
        else:
            cut = len(self._held) - self._may_begin_stop()
            shown, self._held = self._held[:cut], self._held[cut:]
        self.text += shown
        return shown

    def _may_begin_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        longest = max(map(len, self._stop_texts), default=1) - 1
        return next(
            (
                length
                for length in range(min(longest, len(self._held)), 0, -1)
                if any(stop.startswith(self._held[-length:]) for stop in self._stop_texts)
            ),
            0,
        )
