"""Frames of HTTP/2 by hand: what no client of gRPC sends, or leaves unsent.

Source: RFC 9113
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import defaultdict
from types import TracebackType

DATA, HEADERS, RESET, SETTINGS, PING, AWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
ACKNOWLEDGED, END_STREAM, END_HEADERS = 1, 1, 4
INITIAL_WINDOW, CANCEL = 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PIECE = 16_384
"""Bytes of a frame at most, where nothing else is agreed."""
ROOM = 65_535
"""Bytes that a stream may send at first, where nothing else is agreed."""


def frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    """A frame as it is sent (section 4.1)."""
    return len(data).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + data


def headers(path: str, token: str = "") -> bytes:
    """The headers of a gRPC call, none of them compressed (RFC 7541, section 6.2.2); texts of less than 127 bytes."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    fields |= {"content-type": "application/grpc"} | ({"authorization": f"Bearer {token}"} if token else {})
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def message(data: bytes, size: int | None = None) -> bytes:
    """A message of gRPC as it is sent; `size` is how many bytes it says that it has (None: as many as it has)."""
    return b"\0" + (len(data) if size is None else size).to_bytes(4) + data


def connected(address: str) -> socket.socket:
    """A connection that has not said anything yet."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def deaf(address: str, path: str, data: bytes = b"", token: str = "") -> socket.socket:
    """A connection that asks, reads nothing, and lets not one byte of the answer come."""
    one = connected(address)
    window = INITIAL_WINDOW.to_bytes(2) + (0).to_bytes(4)
    one.sendall(PREFACE + frame(SETTINGS, 0, 0, window) + frame(HEADERS, END_HEADERS, 1, headers(path, token)))
    one.sendall(frame(DATA, END_STREAM, 1, message(data)))
    return one


class Stranger:
    """A connection that says what it is told to, keeps to the windows that it is given, and gives none beyond the
    first: `window` bytes for each stream. `begun` and `ended` are the moments of the monotonic clock at which the
    headers of a stream's answer came, and at which it was over; `closed` is set when the other side has ended the
    connection, or wants no more streams."""

    def __init__(self, address: str, window: int = ROOM) -> None:
        self.begun: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.closed = threading.Event()
        self._socket, self._writing, self._next = connected(address), threading.Lock(), 1
        self._initial, self._used, self._given = ROOM, defaultdict[int, int](int), defaultdict[int, int](int)
        self._changed = threading.Condition()
        self._write(PREFACE + frame(SETTINGS, 0, 0, INITIAL_WINDOW.to_bytes(2) + window.to_bytes(4)))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def ask(self, path: str, token: str = "") -> int:
        """Opens a stream; returns its number. Raises OSError if the connection is gone."""
        stream, self._next = self._next, self._next + 2
        self._write(frame(HEADERS, END_HEADERS, stream, headers(path, token)))
        return stream

    def send(self, stream: int, data: bytes | memoryview, patience: float = 1.0) -> int:
        """Sends on a stream for as long as there is room within `patience` seconds each time; returns how many bytes.
        Raises OSError if the connection is gone."""
        sent = 0
        while sent < len(data) and (count := self._room(stream, len(data) - sent, patience)):
            self._write(frame(DATA, 0, stream, bytes(data[sent : sent + count])))
            sent += count
        return sent

    def reset(self, stream: int) -> None:
        """Ends a stream as a caller does that has left. Raises OSError if the connection is gone."""
        self._write(frame(RESET, 0, stream, CANCEL.to_bytes(4)))

    def _room(self, stream: int, most: int, patience: float) -> int:
        """Bytes of `most` that may be sent in one frame, which count as sent from now on; 0 if there is no room."""

        def left() -> int:
            of_stream = self._initial + self._given[stream] - self._used[stream]
            return min(most, PIECE, of_stream, ROOM + self._given[0] - self._used[0])

        with self._changed:
            self._changed.wait_for(lambda: left() > 0 or stream in self.ended or self.closed.is_set(), patience)
            room = 0 if stream in self.ended or self.closed.is_set() else max(0, left())
            self._used[stream] += room
            self._used[0] += room
            return room

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._socket.sendall(data)

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as file:
                while len(head := file.read(9)) == 9:
                    stream = int.from_bytes(head[5:9]) & 0x7FFF_FFFF
                    self._hear(head[3], head[4], stream, file.read(int.from_bytes(head[:3])))
        except OSError:
            pass  # it is over, as `closed` says
        finally:
            with self._changed:
                self.closed.set()
                self._changed.notify_all()

    def _hear(self, kind: int, flags: int, stream: int, data: bytes) -> None:
        with self._changed:
            if kind == SETTINGS and not flags & ACKNOWLEDGED:
                for at in range(0, len(data), 6):
                    if int.from_bytes(data[at : at + 2]) == INITIAL_WINDOW:
                        self._initial = int.from_bytes(data[at + 2 : at + 6])
                self._write(frame(SETTINGS, ACKNOWLEDGED, 0, b""))
            elif kind == PING and not flags & ACKNOWLEDGED:
                self._write(frame(PING, ACKNOWLEDGED, 0, data))
            elif kind == WINDOW:
                self._given[stream] += int.from_bytes(data)
            elif kind == AWAY:
                self.closed.set()
            if kind == HEADERS:
                self.begun.setdefault(stream, time.monotonic())
            if kind == RESET or (kind in (DATA, HEADERS) and flags & END_STREAM):
                self.ended.setdefault(stream, time.monotonic())
            self._changed.notify_all()


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
