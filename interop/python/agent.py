"""Interop peer: redis-py's own Lock, driven by lines on stdin.

The protocol is the same for every agent under interop/: one command per line,
exactly one answer per command. redis-py locks on one server only; with more
servers this agent holds one Lock per server under a shared token and asks for
a majority, which is what a Redlock on top of redis-py looks like.
"""

import sys
import uuid

import redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry


def connect(url):
    # No retries: a resent SET NX would meet its own key.
    return redis.Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), socket_timeout=1, socket_connect_timeout=1
    )


class Agent:
    def __init__(self, urls):
        self.clients = [connect(url) for url in urls]
        self.quorum = len(urls) // 2 + 1
        self.held = {}  # name -> the Lock of every server

    def lock(self, name, expiry_ms):
        # thread_local off: the token then is a plain attribute of the Lock.
        locks = [
            Lock(client, name, timeout=expiry_ms / 1000, blocking=False, thread_local=False)
            for client in self.clients
        ]
        # One server: Lock as it comes, with the token it makes. More: the
        # token must be shared; same format as Lock's own.
        token = uuid.uuid1().hex if len(locks) > 1 else None
        acquired, errors = [], []
        for lock in locks:
            try:
                if lock.acquire(token=token):
                    acquired.append(lock)
            except RedisError as e:
                errors.append(f"{type(e).__name__}: {e}")
        if len(acquired) >= self.quorum:
            self.held[name] = locks
            return f"ok {acquired[0].local.token.decode()}"
        self.each(acquired, Lock.release)
        if len(locks) - len(errors) >= self.quorum:
            return "taken"  # a majority answered, so other holders denied the quorum
        return f"error {'; '.join(errors)}"

    def extend(self, name, expiry_ms):
        # Lock.extend adds to what is left unless told to replace it.
        return self.majority(
            self.held.get(name), lambda lock: lock.extend(expiry_ms / 1000, replace_ttl=True)
        )

    def unlock(self, name):
        return self.majority(self.held.pop(name, None), Lock.release)

    def majority(self, locks, act):
        if locks is None:
            return "failed not locked by this agent"
        errors = self.each(locks, act)
        if len(locks) - len(errors) >= self.quorum:
            return "ok"
        return f"failed {'; '.join(errors)}"

    @staticmethod
    def each(locks, act):
        """Acts on every lock and returns the errors."""
        errors = []
        for lock in locks:
            try:
                act(lock)
            except (LockError, RedisError) as e:
                errors.append(f"{type(e).__name__}: {e}")
        return errors

    def answer(self, line):
        match line.split():
            case ["lock", name, ms] if ms.isdecimal() and int(ms) > 0:
                return self.lock(name, int(ms))
            case ["extend", name, ms] if ms.isdecimal() and int(ms) > 0:
                return self.extend(name, int(ms))
            case ["unlock", name]:
                return self.unlock(name)
        return f"error bad command: {line.strip()}"


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: agent.py <redis-url>...")
    agent = Agent(sys.argv[1:])
    print("ready redis-py", redis.__version__, flush=True)
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        print(agent.answer(line).replace("\n", "; "), flush=True)


if __name__ == "__main__":
    main()
