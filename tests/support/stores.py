"""What a store holds."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from redis import Redis


def everything(store: Redis) -> Iterator[bytes]:
    """Yields every key and value in a store. Data that RQ compressed is decompressed."""
    readers: dict[object, Callable[[bytes], object]] = {
        b"string": store.get,
        b"hash": store.hgetall,
        b"list": lambda name: store.lrange(name, 0, -1),
        b"set": store.smembers,
        b"zset": lambda name: store.zrange(name, 0, -1),
        b"stream": store.xrange,
        b"none": lambda _: None,  # it expired meanwhile
    }
    for name in store.scan_iter():
        yield name
        for value in _flat(readers[store.type(name)](name)):
            yield value
            with suppress(zlib.error):
                yield zlib.decompress(value)


def _flat(value: object) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for inner in value:
            yield from _flat(inner)
    elif isinstance(value, bytes):
        yield value
