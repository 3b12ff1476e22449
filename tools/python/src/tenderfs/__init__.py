"""Tells TenderFS what a training job will read next, so that it is there when it is opened.

`wrap` does it for a PyTorch DataLoader; `publish` takes the order of the reads from anybody else. All of it is
advice: without a daemon, or with one that refuses, dies or hangs, there is one warning and training goes on.
"""

from ._loader import wrap
from ._plan import Entry, Published, cancel, publish
from ._shards import expand_braces, mosaicml_reads, publish_webdataset, shuffled_shards
from ._status import JobStats, MountStats, PlanStats, stats

__all__ = [
    "Entry",
    "JobStats",
    "MountStats",
    "PlanStats",
    "Published",
    "cancel",
    "expand_braces",
    "mosaicml_reads",
    "publish",
    "publish_webdataset",
    "shuffled_shards",
    "stats",
    "wrap",
]
