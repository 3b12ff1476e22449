"""Which files the items of a data set are in: what the caller says, or what data sets of known shape tell."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional, Union

from ._plan import Entry

Reads = Union[Entry, list[Entry]]
"""What reading one item reads."""

Paths = Callable[[int], Reads]
"""From the index of an item."""

_DEPTH_MAX = 8


def paths_of(dataset: Any, depth: int = 0) -> Optional[Paths]:
    """The paths of a data set: ImageFolder, DatasetFolder and what has their `samples` or `imgs`, and Subset and
    ConcatDataset of such. None if it is none of these.
    """
    if depth > _DEPTH_MAX:
        return None
    for name in ("samples", "imgs"):
        samples: Any = getattr(dataset, name, None)
        if _is_samples(samples):
            return _of_samples(samples)
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        return _of_subset(dataset, depth)
    if hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):
        return _of_concatenation(dataset, depth)
    return None


def entries(paths: Paths, indices: Iterable[int]) -> Iterable[Entry]:
    """All that reading these items reads."""
    for index in indices:
        reads = paths(index)
        if isinstance(reads, list):
            yield from reads
        else:
            yield reads


def _is_samples(samples: Any) -> bool:
    """Whether it is a list of (path, class)."""
    if not isinstance(samples, (list, tuple)) or not samples:
        return False
    first = samples[0]
    return isinstance(first, (list, tuple)) and len(first) > 0 and isinstance(first[0], str)


def _of_samples(samples: Sequence[Any]) -> Paths:
    return lambda index: str(samples[index][0])


def _of_subset(dataset: Any, depth: int) -> Optional[Paths]:
    inner, indices = paths_of(dataset.dataset, depth + 1), dataset.indices
    if inner is None:
        return None
    known = inner
    return lambda index: known(int(indices[index]))


def _of_concatenation(dataset: Any, depth: int) -> Optional[Paths]:
    ends: list[int] = dataset.cumulative_sizes
    found = [paths_of(one, depth + 1) for one in dataset.datasets]
    known = [paths for paths in found if paths is not None]
    if len(known) != len(found):
        return None

    def paths(index: int) -> Reads:
        place = bisect_right(ends, index)
        return known[place](index - (ends[place - 1] if place else 0))

    return paths
