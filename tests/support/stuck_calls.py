"""Calls of gRPC that never end, as some do after a graceful stop of a real node: the code is there,
`is_active()` is False, `cancel()` changes nothing, and whoever reads waits for ever.
"""

STICK = """
import threading
import grpc
from grpc import _channel

_next = _channel._MultiThreadedRendezvous._next

def stuck(self):
    try:
        return _next(self)
    except grpc.RpcError:
        if self.code() is grpc.StatusCode.UNAVAILABLE:
            threading.Event().wait()
        raise

_channel._MultiThreadedRendezvous._next = stuck
"""
"""Code that makes all calls of a process so that end as UNAVAILABLE."""


class Stuck:
    """A call that gives some messages, and then neither more nor an end."""

    def __init__(self, messages=(), *, active=False):
        self.messages, self.active, self.cancelled = list(messages), active, 0

    def __iter__(self):
        import threading

        yield from self.messages
        threading.Event().wait()

    def is_active(self):
        return self.active

    def cancel(self):
        self.cancelled += 1
        return False
