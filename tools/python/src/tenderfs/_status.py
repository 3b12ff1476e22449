"""How a job and the mounts that it reads are doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from ._complaints import LOG
from ._daemon import Daemon, DaemonError, Mount, ask, daemons, route


@dataclass(frozen=True)
class PlanStats:
    """One plan, and how far its reader is. Counts are entries."""

    epoch: int
    rank: int
    entries: int
    used: int
    """Were read."""
    taken: int
    """Were fetched, or are being fetched."""
    missing: int
    """Whose file does not exist."""
    ready_bytes: int
    """Fetched for entries that were not read yet."""


@dataclass(frozen=True)
class JobStats:
    """A job with plans on a mount."""

    job: str
    world: int
    plans: tuple[PlanStats, ...]
    stalls: int
    """Reads of planned files that had to wait."""
    stalled_seconds: float
    """How long they waited, added up over all readers."""


@dataclass(frozen=True)
class MountStats:
    """A mount since its daemon started."""

    mountpoint: str
    source: str
    served_bytes: int
    """Handed to the kernel."""
    errors: int
    """Requests of the kernel that were answered with an error."""
    s3_requests: int
    s3_received_bytes: int
    daemon_hit_ratio: Optional[float]
    """Share of the reads from all mounts of the daemon that did not wait for S3; None before the first."""
    daemon_wait_seconds: float
    """Time that readers of all mounts of the daemon were blocked."""
    jobs: tuple[JobStats, ...]


def stats(job: Optional[str] = None) -> list[MountStats]:
    """Every mount that answers, with the jobs on it, or only this one. Empty without a daemon."""
    try:
        return [_mount_stats(daemon, mount, job) for daemon in daemons() for mount in daemon.mounts()]
    except DaemonError as error:
        LOG.debug("no figures: %s", error)
        return []


def _mount_stats(daemon: Daemon, mount: Mount, job: Optional[str]) -> MountStats:
    figures, reads = mount.figures, daemon.status["cache"]["reads"]
    jobs = ask(mount.socket, "GET", route("jobs", mount=mount.mountpoint))
    return MountStats(
        mountpoint=mount.mountpoint,
        source=figures["source"],
        served_bytes=figures["served_bytes"],
        errors=figures["errors"],
        s3_requests=figures["s3_requests"],
        s3_received_bytes=figures["s3_received_bytes"],
        daemon_hit_ratio=reads["hit_ratio"],
        daemon_wait_seconds=reads["wait_seconds"],
        jobs=tuple(_job_stats(one) for one in jobs if job is None or one["job"] == job),
    )


def _job_stats(job: dict[str, Any]) -> JobStats:
    names = PlanStats.__dataclass_fields__
    plans = (PlanStats(**{name: plan[name] for name in names}) for plan in job["epochs"])
    return JobStats(job["job"], job["world"], tuple(plans), job["stalls"], job["stalled_seconds"])
