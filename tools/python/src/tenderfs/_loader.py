"""`wrap`: a DataLoader that says what it will read.

The loader that is given back is a copy of the given one with another index sampler, `_Announced`, which lets the
original run unseen and untouched, and publishes before it begins.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple, Optional, TypeVar

from ._complaints import LOG, Complaints
from ._daemon import DaemonError
from ._datasets import Paths, entries, paths_of
from ._foresight import Foresight, sampler_parts
from ._plan import ENTRIES_MAX, Published, is_known, post

_Loader = TypeVar("_Loader")

THREAD_NAME = "tenderfs-plan"
"""Of the threads that publish the next epoch."""

_loaders = count()


def wrap(
    loader: _Loader,
    *,
    paths: Optional[Paths] = None,
    job: Optional[str] = None,
    rank: Optional[int] = None,
    world: Optional[int] = None,
) -> _Loader:
    """A loader that yields what `loader` does, and publishes in which order it reads before it begins to.

    `loader` is a `torch.utils.data.DataLoader` of a data set with indices. `paths` tells from an index what is read
    for that item: a path, a (path, offset, length), or a list of them; ImageFolder and DatasetFolder, and Subset and
    ConcatDataset of them, need none. `job` names it to `tenderfs plan status`; every loader of a job needs a name of
    its own, the same on all ranks. `rank` and `world` are taken from a DistributedSampler, or from `RANK` and
    `WORLD_SIZE`.

    Where the next order is settled already, because it comes from a generator of its own or from `set_epoch`, it is
    published before the epoch ends. Nothing here raises: what cannot be done is a warning, and the loader is as it
    was. Wrap last: what makes a new loader of this one's parts (Lightning, Accelerate) may leave the announcing out.
    """
    complaints = Complaints()
    try:
        return _announced(loader, paths, _Voice(job, rank, world, complaints))
    except Exception as error:  # Advice must never end a training.
        complaints.say("a loader is not wrapped: %s", error)
        return loader


def _announced(loader: _Loader, paths: Optional[Paths], voice: _Voice) -> _Loader:
    known: Any = loader
    name = "sampler" if known.batch_sampler is None else "batch_sampler"
    sampler = getattr(known, name)
    if isinstance(sampler, _Announced):
        return loader
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(known.dataset, torch.utils.data.IterableDataset):
        raise ValueError("an IterableDataset has no order that could be known; publish its shards instead")
    found = paths if paths is not None else paths_of(known.dataset)
    if found is None:
        kind = type(known.dataset).__name__
        raise ValueError(f"which files the items of {kind} are in is not known: say it by `paths=`")
    wrapped: Any = copy.copy(known)
    # The loader refuses a new sampler, lest it be changed while workers run; a copy has none yet.
    announced_kind = _StatefulAnnounced if _is_stateful(sampler) else _Announced
    object.__setattr__(wrapped, name, announced_kind(sampler, _Announcer(known, sampler, found, voice)))
    wrapped._iterator = None
    announced: _Loader = wrapped
    return announced


class _Announced:
    """A sampler that is announced before it begins. In all else it is the sampler."""

    __slots__ = ("_announcer", "_sampler")
    _announcer: _Announcer
    _sampler: Any

    def __init__(self, sampler: Any, announcer: _Announcer) -> None:
        object.__setattr__(self, "_sampler", sampler)
        object.__setattr__(self, "_announcer", announcer)

    def __iter__(self) -> Iterator[Any]:
        # What a sampler draws in `__iter__` itself, before the first item, is to be drawn when the loader asks.
        foresight = None if _is_lazy(self._sampler) else self._announcer.foresee()
        items = iter(self._sampler)
        kind = _StatefulItems if _is_stateful(items) else _Items
        return kind(self._announcer, foresight, items)

    def __len__(self) -> int:
        length: int = len(self._sampler)
        return length

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or what comes out of a pickle, is the sampler alone: two loaders must not announce as one.
        return _itself, (self._sampler,)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_sampler"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._sampler, name, value)


class _StatefulAnnounced(_Announced):
    """One whose state is saved and loaded. Whether it is such a one is asked of its class."""

    __slots__ = ()

    def state_dict(self) -> Any:
        return self._sampler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._sampler.load_state_dict(state)


class _Items:
    """What a sampler yields, announced when the first is asked for."""

    def __init__(self, announcer: _Announcer, foresight: Optional[Foresight], items: Iterator[Any]) -> None:
        self._announcer = announcer
        self._foresight = foresight
        self._items: Any = items
        self._run: Optional[Iterator[Any]] = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._run is None:
            self._run = self._announcer.announced(self._foresight, self._items)
        return next(self._run)


class _StatefulItems(_Items):
    """Those of a StatefulDataLoader, which goes on in the middle of a pass."""

    def state_dict(self) -> Any:
        return self._items.state_dict()

    def load_state_dict(self, state: Any) -> None:
        if self._foresight is not None:
            self._foresight = self._announcer.resumed(self._foresight, state)
        self._items.load_state_dict(state)


def _is_stateful(one: Any) -> bool:
    return hasattr(one, "state_dict") and hasattr(one, "load_state_dict")


def _itself(sampler: Any) -> Any:
    return sampler


def _is_lazy(sampler: Any) -> bool:
    """Whether its `iter` does nothing until the first item is asked for."""
    return inspect.isgeneratorfunction(type(sampler).__iter__)


class _Pass(NamedTuple):
    """One run through the data."""

    epoch: int
    indices: list[int]


class _Voice:
    """Whose plans these are, and how they are published."""

    def __init__(
        self, job: Optional[str], rank: Optional[int], world: Optional[int], complaints: Complaints
    ) -> None:
        self.job = job if job is not None else _job_name(next(_loaders))
        self.rank = rank
        self.world = world
        self.complaints = complaints

    def publish(self, order: _Pass, paths: Paths, place: tuple[int, int]) -> Optional[Published]:
        rank, world = place
        try:
            reads = entries(paths, order.indices)
            return post(reads, job=self.job, epoch=order.epoch, rank=rank, world=world)
        except Exception as error:  # Among others, whatever the caller's `paths` raises.
            self.complaints.say("epoch %d of job %s is not published: %s", order.epoch, self.job, error)
            return None

    def place(self, sampler: Any) -> tuple[int, int]:
        """The rank and the world: as given, as the sampler says, as the environment says."""
        if self.rank is not None:
            return self.rank, self.world if self.world is not None else self.rank + 1
        for part in sampler_parts(sampler):
            rank, world = getattr(part, "rank", None), getattr(part, "num_replicas", None)
            if isinstance(rank, int) and isinstance(world, int):
                return rank, world
        rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
        return (rank, world) if 0 <= rank < world else (0, 1)


class _Announcer:
    """Publishes each pass of one loader before it begins, and the next one if it can be foreseen."""

    def __init__(self, loader: Any, sampler: Any, paths: Paths, voice: _Voice) -> None:
        self._loader = loader
        self._sampler = sampler
        self._paths = paths
        self._voice = voice
        self._epoch_next = 0
        self._foreseen: Optional[_Pass] = None
        self._early = _Early(voice, paths)
        # Whether the order of a pass is known before it begins; and that of the next one.
        self._is_foreseeable = True
        self._is_predictable = True
        # One that is given up draws less from its generator than one that ends, so what follows is not as foreseen.
        self._pass_was_whole = False

    def foresee(self) -> Optional[Foresight]:
        """A copy of the sampler that the loader is about to ask for an iterator; None if there is no use in one."""
        if not self._is_foreseeable:
            return None
        try:
            foresight = Foresight(self._sampler, self._loader)
            foresight.begin()
            return foresight
        except Exception as error:  # A sampler may hold what cannot be copied.
            self._voice.complaints.say("the order of a sampler cannot be foreseen: %s", error)
            return None

    def resumed(self, foresight: Foresight, state: Any) -> Optional[Foresight]:
        """The copy, in the middle of a pass where the sampler will be."""
        try:
            foresight.resume(state)
            return foresight
        except Exception as error:
            self._voice.complaints.say("the order of a sampler that goes on cannot be foreseen: %s", error)
            return None

    def announced(self, foresight: Optional[Foresight], items: Iterator[Any]) -> Iterator[Any]:
        """The items, announced before the first."""
        if foresight is None and _is_lazy(self._sampler):
            foresight = self.foresee()
        foreseen: list[Any] = []
        if foresight is not None:
            try:
                foreseen = self._announce(foresight)
            except Exception as error:  # The sampler's own errors come from the sampler itself.
                self._voice.complaints.say("a pass of job %s is not published: %s", self._voice.job, error)
        for number, item in enumerate(items):
            if number < len(foreseen) and self._is_foreseeable:
                self._compare(foreseen[number], item)
            yield item
        self._pass_was_whole = True

    def _compare(self, foreseen: Any, item: Any) -> None:
        """Notices a sampler that draws while it runs from what others draw from too: nobody knows its order."""
        if _indices([foreseen]) != _indices([item]):
            self._is_foreseeable = False
            said = "job %s reads in another order than was foreseen, and publishes no more"
            self._voice.complaints.say(said, self._voice.job)

    def _announce(self, foresight: Foresight) -> list[Any]:
        """Publishes what the sampler will yield, and gives it back."""
        items = foresight.this_pass(ENTRIES_MAX)
        order = _Pass(self._epoch(), _indices(items))
        early, foreseen = self._early.take(), self._foreseen
        was_right = foreseen == order
        if foreseen is not None and not was_right and self._pass_was_whole:
            LOG.debug("job %s: epoch %d was not as foreseen", self._voice.job, order.epoch)
            self._is_predictable = False
        self._epoch_next = order.epoch + 1
        self._pass_was_whole = False
        self._foreseen = None
        place = self._voice.place(self._sampler)
        if not (was_right and early is not None and _is_still_known(early)):
            self._voice.publish(order, self._paths, place)
        if self._is_predictable and len(items) < ENTRIES_MAX:
            self._foresee_next(foresight, order.epoch + 1, place)
        return items

    def _foresee_next(self, foresight: Foresight, epoch: int, place: tuple[int, int]) -> None:
        known = self._loader
        draws_seed = not (known.persistent_workers and known.num_workers > 0)
        items = foresight.next_pass(ENTRIES_MAX, epoch, draws_seed)
        if items is not None:
            self._foreseen = _Pass(epoch, _indices(items))
            self._early.publish(self._foreseen, place)

    def _epoch(self) -> int:
        """The number of the pass: counted, but never below what the sampler was told by `set_epoch`."""
        told = [getattr(part, "epoch", None) for part in sampler_parts(self._sampler)]
        return max([self._epoch_next, *(epoch for epoch in told if isinstance(epoch, int))])


class _Early:
    """Publishes a pass while the one before it runs, in a thread of its own."""

    def __init__(self, voice: _Voice, paths: Paths) -> None:
        self._voice = voice
        self._paths = paths
        self._thread: Optional[threading.Thread] = None
        self._published: Optional[Published] = None

    def publish(self, order: _Pass, place: tuple[int, int]) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(order, place), name=THREAD_NAME, daemon=True
        )
        self._thread.start()

    def _run(self, order: _Pass, place: tuple[int, int]) -> None:
        self._published = self._voice.publish(order, self._paths, place)

    def take(self) -> Optional[Published]:
        """The plan that was published last, once; None if none was."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        published, self._published = self._published, None
        return published


def _is_still_known(published: Published) -> bool:
    try:
        return is_known(published)
    except DaemonError:
        return False


def _indices(items: Iterable[Any]) -> list[int]:
    """The indices of batches, or of items that are not batched."""
    indices: list[int] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            indices += map(int, item)
            continue
        try:
            indices.append(int(item))
        except (TypeError, ValueError, RuntimeError):  # A batch of another kind, such as a tensor.
            indices += map(int, item)
    return indices


def _job_name(number: int) -> str:
    """A name that all ranks of a job agree on, where a launcher tells one; the number is the loader's."""
    run = os.environ.get("TENDERFS_JOB") or os.environ.get("TORCHELASTIC_RUN_ID")
    if run in (None, "", "none"):
        slurm = os.environ.get("SLURM_JOB_ID")
        run = f"slurm-{slurm}" if slurm else f"python-{os.getpid()}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{run}-{number}").lstrip(".")[-120:]


def _number(name: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(name, otherwise))
    except ValueError:
        return otherwise
