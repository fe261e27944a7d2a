"""The shop: makes its store where there is none, and places orders until it is stopped."""

import os
import signal
import threading

import psycopg

from esops.demo import store
from esops.demo.workload import write

dsn = os.environ["SHOP_DSN"]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with psycopg.connect(dsn, autocommit=True) as connection:
    row = connection.execute("SELECT to_regclass('shop.mt_events') IS NULL").fetchone()
    if row is not None and row[0]:
        store.create(connection)
        store.generate(connection, 20_000)
write(dsn, stop, seed=os.getpid(), rate=20)
