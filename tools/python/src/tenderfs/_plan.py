"""Plans: what will be read, in the order of the reads, as the daemon takes it.

A plan is cut by mount, for a sample may have its image in one and its label in another. What no mount serves is left
out: a job may read other files too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple, Optional, Union

from ._complaints import LOG, Complaints
from ._daemon import ANSWER_SECONDS, PLAN_BYTES_PER_SECOND, DaemonError, Mount, ask, mounts, route

_Path = Union[str, "os.PathLike[str]"]

Entry = Union[_Path, tuple[_Path, int, int]]
"""One read: a file, or a path, an offset and a length in bytes."""

ENTRIES_MAX = 5_000_000
"""Entries of a plan at most; what comes behind them is not published. A daemon takes 20 million of all plans."""

_OFFSET_MAX = 1 << 62

_ODD = ("//", "/.", "\t", "\n", "\r", "\0")
"""Parts of paths that need a closer look."""


class Published(NamedTuple):
    """A plan that daemons took."""

    job: str
    epoch: int
    rank: int
    entries: int
    """Reads in it."""
    left_out: int
    """Reads that no plan can hold, or that no mount serves."""
    mountpoints: tuple[str, ...]
    """The mounts that it was given to."""


_complaints: dict[str, Complaints] = {}


def publish(
    order: Iterable[Entry], *, job: str, epoch: int = 0, rank: int = 0, world: int = 1
) -> Optional[Published]:
    """Says what a rank of a job will read in an epoch; a plan published again takes the place of the one before.

    Paths may be absolute, or relative to the working directory. Returns None, and warns once for each job, if no
    daemon took it.
    """
    try:
        return post(order, job=job, epoch=epoch, rank=rank, world=world)
    except DaemonError as error:
        _complaints.setdefault(job, Complaints()).say("the plan of job %s is not published: %s", job, error)
        return None


def cancel(job: str) -> None:
    """Has the plans of a job forgotten, on all mounts. A job that ends need not: nothing heard, its lease ends."""
    try:
        for mount in mounts():
            try:
                ask(mount.socket, "DELETE", route("jobs", job, mount=mount.mountpoint))
            except DaemonError as error:
                LOG.debug("job %s is not cancelled on %s: %s", job, mount.mountpoint, error)
    except DaemonError as error:
        LOG.debug("job %s is not cancelled: %s", job, error)


def post(order: Iterable[Entry], *, job: str, epoch: int, rank: int, world: int) -> Published:
    """As `publish`, with an error if no daemon takes it."""
    served = mounts()
    plans, left_out = cut(order, [mount.mountpoint for mount in served])
    if not plans:
        where = ", ".join(mount.mountpoint for mount in served) or "none"
        raise DaemonError(f"none of its files is on a mount; the mounts are: {where}")
    for mount in served:
        lines = plans.get(mount.mountpoint)
        if lines is not None:
            query = {"epoch": epoch, "rank": rank, "world": world, "mount": mount.mountpoint}
            body = "".join(lines).encode()
            seconds = ANSWER_SECONDS + len(body) / PLAN_BYTES_PER_SECOND
            ask(mount.socket, "POST", route("jobs", job, "plans", **query), body, seconds)
    entries = sum(len(lines) for lines in plans.values())
    LOG.debug("job %s, epoch %d, rank %d: %d reads published, %d left out", job, epoch, rank, entries, left_out)
    return Published(job, epoch, rank, entries, left_out, tuple(plans))


def is_known(published: Published) -> bool:
    """Whether the daemons still have the plan: one that started anew has forgotten it."""
    entries = 0
    for mount in mounts():
        if mount.mountpoint in published.mountpoints:
            entries += _entries_of(published, mount)
    return entries == published.entries


def _entries_of(published: Published, mount: Mount) -> int:
    try:
        status = ask(mount.socket, "GET", route("jobs", published.job, "status", mount=mount.mountpoint))
    except DaemonError:
        return 0
    which = (published.epoch, published.rank)
    plans = status.get("epochs", [])
    return sum(int(plan["entries"]) for plan in plans if (plan["epoch"], plan["rank"]) == which)


def cut(order: Iterable[Entry], mountpoints: list[str]) -> tuple[dict[str, list[str]], int]:
    """The lines of the plan of each mount that has any, and how many entries have no line.

    The mount points are in the order in which they are tried: the longest first.
    """
    roots = [(mountpoint.rstrip("/") + "/", mountpoint) for mountpoint in mountpoints]
    places = _Places(roots)
    plans: dict[str, list[str]] = {}
    left_out = 0
    for count, entry in enumerate(order):
        if count == ENTRIES_MAX:
            break
        path, part = (entry[0], _part(entry)) if isinstance(entry, tuple) else (entry, "")
        place = None if part is None else places.of(os.fspath(path))
        if place is None:
            left_out += 1
            continue
        mountpoint, below = place
        plans.setdefault(mountpoint, []).append(f"{below}{part}\n")
    return plans, left_out


def _part(entry: tuple[_Path, int, int]) -> Optional[str]:
    """The end of the line of a part of a file; None if it is no part."""
    _, offset, len_bytes = entry
    if offset < 0 or len_bytes <= 0 or offset + len_bytes > _OFFSET_MAX:
        return None
    return f"\t{offset:d}\t{len_bytes:d}"


class _Places:
    """Which mount a path is on, and what it is called there."""

    def __init__(self, roots: list[tuple[str, str]]) -> None:
        self._roots = roots
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> Optional[tuple[str, str]]:
        if any(odd in path for odd in _ODD) or not _is_text(path):
            if any(odd in path for odd in _ODD[2:]) or not _is_text(path):
                return None
            path = os.path.abspath(path)
        elif not path.startswith("/"):
            path = os.path.abspath(path)
        return self._below(path) or self._below(self._without_links(path))

    def _below(self, path: str) -> Optional[tuple[str, str]]:
        for root, mountpoint in self._roots:
            if path.startswith(root) and len(path) > len(root) and not path.endswith("/"):
                return mountpoint, path[len(root) :]
        return None

    def _without_links(self, path: str) -> str:
        """The path with the links on the way to its folder followed, which is looked up once."""
        folder, name = os.path.split(path)
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder)
        return os.path.join(real, name)


def _is_text(path: str) -> bool:
    """Whether it is UTF-8: Python marks other bytes of names by lone surrogates, which no text holds."""
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
