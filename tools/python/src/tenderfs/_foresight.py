"""What a sampler will yield, found out on a copy, so that the sampler and all randomness stay as they are.

Invariant: after each method here, the sampler, its generators and the generators of the process (torch, `random`,
numpy) are in the state in which they were before. So a loader whose sampler was foreseen yields what it would have
yielded.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Optional

_DEPTH_MAX = 6
"""Samplers are wrapped in samplers no deeper than this."""


class Foresight:
    """A copy of a sampler that runs ahead of it. It shares the data set and copies all else.

    The calls stand in the order in which a loader makes them: `begin` before the sampler's `iter`, `this_pass`
    before the first item is taken, and then `next_pass`, if it is wanted.
    """

    def __init__(self, sampler: Any, loader: Any) -> None:
        self._generators: list[tuple[Any, Any]] = []
        self._loader_generator: Any = None
        memo: dict[int, Any] = {}
        _share(getattr(loader, "dataset", None), memo)
        loader_generator = getattr(loader, "generator", None)
        for part in sampler_parts(sampler):
            for name, value in _attributes(part):
                if name in ("dataset", "data_source"):
                    _share(value, memo)
                elif _is_generator(value) and id(value) not in memo:
                    twin = type(value)(device=value.device)
                    memo[id(value)] = twin
                    self._generators.append((value, twin))
                    if value is loader_generator:
                        self._loader_generator = twin
        self._follow_generators()
        self.sampler = copy.deepcopy(sampler, memo)
        self._iterator: Iterator[Any] = iter(())

    def begin(self) -> None:
        """What the loader does when it asks for an iterator."""
        with process_randomness_kept():
            self._iterator = iter(self.sampler)

    def resume(self, state: Any) -> None:
        """What a loader does that goes on in the middle of a pass: loads the state of the iterator."""
        iterator: Any = self._iterator
        with process_randomness_kept():
            iterator.load_state_dict(copy.deepcopy(state))

    def this_pass(self, items_max: int) -> list[Any]:
        """What the sampler yields in the pass that is about to begin, at most so many items."""
        # The loader may have drawn from them since its call of `iter`.
        self._follow_generators()
        with process_randomness_kept():
            return list(islice(self._iterator, items_max))

    def next_pass(self, items_max: int, epoch: int, draws_seed: bool) -> Optional[list[Any]]:
        """What it yields in the pass after this one, which is of `epoch`; None if that is not settled yet, because
        it depends on generators of the process. `draws_seed` says whether the loader itself draws a number from
        its generator in between.
        """
        if draws_seed and self._loader_generator is not None:
            torch = sys.modules["torch"]
            torch.empty((), dtype=torch.int64).random_(generator=self._loader_generator)
        for part in sampler_parts(self.sampler):
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(epoch)
        with process_randomness_kept() as randomness:
            items = list(islice(iter(self.sampler), items_max))
            return None if randomness.was_used() else items

    def _follow_generators(self) -> None:
        for generator, twin in self._generators:
            twin.set_state(generator.get_state())


class _Randomness:
    """The states of the generators that belong to the process."""

    def __init__(self) -> None:
        self._torch = sys.modules.get("torch")
        self._numpy = sys.modules.get("numpy.random")
        self._python_state = random.getstate()
        self._torch_state: Any = self._torch.get_rng_state() if self._torch else None
        self._numpy_state: Any = self._numpy.get_state() if self._numpy else None

    def was_used(self) -> bool:
        """Whether anything was drawn since."""
        if random.getstate() != self._python_state:
            return True
        if self._torch and not self._torch.equal(self._torch.get_rng_state(), self._torch_state):
            return True
        if not self._numpy:
            return False
        now, then = self._numpy.get_state(), self._numpy_state
        return bool(now[0] != then[0] or (now[1] != then[1]).any() or now[2:] != then[2:])

    def put_back(self) -> None:
        random.setstate(self._python_state)
        if self._torch:
            self._torch.set_rng_state(self._torch_state)
        if self._numpy:
            self._numpy.set_state(self._numpy_state)


@contextmanager
def process_randomness_kept() -> Iterator[_Randomness]:
    """Afterwards nothing was drawn."""
    randomness = _Randomness()
    try:
        yield randomness
    finally:
        randomness.put_back()


def sampler_parts(sampler: Any) -> list[Any]:
    """A sampler and those that it is made of, from the outside in; data sets are no parts."""
    parts: list[Any] = []
    layer = [sampler]
    for _ in range(_DEPTH_MAX):
        parts += layer
        known = {id(part) for part in parts}
        layer = [
            value
            for part in layer
            for name, value in _attributes(part)
            if name not in ("dataset", "data_source") and id(value) not in known
            if hasattr(value, "__dict__") and hasattr(type(value), "__iter__")
        ]
    return parts


def _attributes(part: Any) -> list[tuple[str, Any]]:
    return list(getattr(part, "__dict__", {}).items())


def _is_generator(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Generator)


def _share(dataset: Any, memo: dict[int, Any]) -> None:
    """Marks a data set, and those that it is made of, as not to be copied."""
    layer = [dataset]
    for _ in range(_DEPTH_MAX):
        memo.update((id(one), one) for one in layer if one is not None)
        inner = [getattr(one, "dataset", None) for one in layer]
        layer = [one for one in inner if one is not None]
