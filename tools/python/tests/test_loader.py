"""`wrap` under real PyTorch: a wrapped loader yields what the unwrapped one does and leaves all randomness as it
would be, and what it publishes is what it yields."""

from __future__ import annotations

import copy
import os
import pickle
import random
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

try:
    import numpy
    import torch
    from torch.utils.data import (
        BatchSampler,
        ConcatDataset,
        DataLoader,
        Dataset,
        DistributedSampler,
        IterableDataset,
        RandomSampler,
        Sampler,
        Subset,
        SubsetRandomSampler,
        WeightedRandomSampler,
    )
except ImportError as missing:
    raise unittest.SkipTest(f"{missing.name} is not installed: `pip install torch numpy` lets these run") from missing

try:
    from torchdata.stateful_dataloader import StatefulDataLoader
except ImportError:
    StatefulDataLoader = None

import tenderfs
from tenderfs import _daemon, _loader
from recorder import MOUNTPOINT, Recorder
from test_plans import listening_to

ITEMS = 37


class Numbers(Dataset):  # type: ignore[type-arg]
    """Its items are their own indices, and two numbers that depend on the generators of the process."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        return index, int(torch.randint(1 << 30, ())), random.getrandbits(30)


def path_of(index: int) -> str:
    return f"{MOUNTPOINT}/{index:02}"


class EagerSampler(Sampler[int]):
    """Draws when it is asked for an iterator, and remembers how often that was."""

    def __init__(self) -> None:
        self.rounds = 0

    def __iter__(self) -> Iterator[int]:
        self.rounds += 1
        numpy.random.rand(self.rounds)
        order = torch.randperm(ITEMS).tolist()
        random.shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return ITEMS


class UnevenBatches:
    """A batch sampler without a length that draws from everything there is while it runs."""

    def __init__(self) -> None:
        self.own = random.Random(4)

    def __iter__(self) -> Iterator[list[int]]:
        left = list(range(ITEMS))
        while left:
            count = 1 + self.own.randrange(3) + int(numpy.random.randint(2)) + int(torch.randint(2, ()))
            yield [left.pop(random.randrange(len(left))) for _ in range(min(count, len(left)))]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_shared_generator() -> DataLoader[Any]:
    generator = seeded(8)
    sampler = WeightedRandomSampler([1.0 + n for n in range(ITEMS)], 50, generator=generator)
    return DataLoader(Numbers(), batch_size=4, sampler=sampler, generator=generator)


def settle() -> None:
    """Waits for what is published beside the loader."""
    for thread in threading.enumerate():
        if thread.name == _loader.THREAD_NAME:
            thread.join()


Maker = Callable[[], Any]

LOADERS: dict[str, Maker] = {
    "in order": lambda: DataLoader(Numbers(), batch_size=4),
    "shuffled": lambda: DataLoader(Numbers(), batch_size=4, shuffle=True),
    "shuffled, last one dropped": lambda: DataLoader(Numbers(), batch_size=4, shuffle=True, drop_last=True),
    "by a generator": lambda: DataLoader(Numbers(), batch_size=4, shuffle=True, generator=seeded(7)),
    "by a generator and workers": lambda: DataLoader(
        Numbers(), batch_size=4, shuffle=True, generator=seeded(7), num_workers=2
    ),
    "by workers that stay": lambda: DataLoader(
        Numbers(), batch_size=4, shuffle=True, generator=seeded(7), num_workers=2, persistent_workers=True
    ),
    "by workers": lambda: DataLoader(Numbers(), batch_size=4, shuffle=True, num_workers=2, prefetch_factor=3),
    "weighted, with a generator for all": with_shared_generator,
    "with replacement": lambda: DataLoader(
        Numbers(), batch_size=4, sampler=RandomSampler(Numbers(), True, 70, seeded(2))
    ),
    "a part": lambda: DataLoader(Numbers(), batch_size=4, sampler=SubsetRandomSampler([5, 3, 9, 11])),
    "eager": lambda: DataLoader(Numbers(), batch_size=4, sampler=EagerSampler()),
    "eager, not batched": lambda: DataLoader(Numbers(), batch_size=None, sampler=EagerSampler()),
    "eager, not batched, by workers": lambda: DataLoader(
        Numbers(), batch_size=None, sampler=EagerSampler(), num_workers=2
    ),
    "not batched": lambda: DataLoader(Numbers(), batch_size=None, shuffle=True, generator=seeded(1)),
    "batches of a sampler": lambda: DataLoader(
        Numbers(), batch_sampler=BatchSampler(RandomSampler(Numbers(), generator=seeded(3)), 5, True)
    ),
    "rank 1 of 3": lambda: DataLoader(
        Numbers(), batch_size=4, sampler=DistributedSampler(Numbers(), 3, 1, seed=9), num_workers=2
    ),
}


def uneven() -> DataLoader[Any]:
    return DataLoader(Numbers(), batch_sampler=UnevenBatches())  # type: ignore[arg-type]


PREDICTABLE = {
    "in order",
    "by a generator",
    "by a generator and workers",
    "by workers that stay",
    "weighted, with a generator for all",
    "with replacement",
    "not batched",
    "batches of a sampler",
    "rank 1 of 3",
}


def run(loader: Any, epochs: int = 3, stop_after: int | None = None) -> list[Any]:
    """Everything that a training could notice of the loader: its batches, and all generators after each pass."""
    torch.manual_seed(1)
    random.seed(2)
    numpy.random.seed(3)
    seen: list[Any] = []
    for epoch in range(epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        for number, batch in enumerate(loader):
            seen.append([part.tolist() if hasattr(part, "tolist") else part for part in batch])
            if number == stop_after:
                break
            torch.randint(10, ())  # What a model draws.
        seen.append((torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())))
        if loader.generator is not None:
            seen.append(loader.generator.get_state().tolist())
    return seen


def indices(seen: list[Any]) -> list[list[str]]:
    """The lines that a plan of each pass would have."""
    passes: list[list[str]] = [[]]
    for one in seen:
        if isinstance(one, tuple):
            passes.append([])
        elif len(one) == 3:
            # Batched items are collated: the first part has all indices.
            numbers = one[0] if isinstance(one[0], list) else [one[0]]
            passes[-1] += [f"{number:02}" for number in numbers]
    return passes[:-1]


class Equality(unittest.TestCase):
    def test_a_wrapped_loader_yields_what_it_would_and_publishes_just_that(self) -> None:
        for name, make in LOADERS.items():
            with self.subTest(name), Recorder() as recorder, listening_to(recorder.socket):
                expected = run(make())
                seen = run(tenderfs.wrap(make(), paths=path_of, job="train"))
                self.assertEqual(seen, expected)
                settle()
                orders = recorder.orders()
                # A plan for the pass that would come next is there too, where it is settled.
                self.assertEqual(3 in orders, name in PREDICTABLE)
                orders.pop(3, None)
                self.assertEqual(orders, dict(enumerate(indices(expected))))
                # None was published twice: what was foreseen was right.
                self.assertEqual(len(recorder.plans), len(orders) + (name in PREDICTABLE))
                self.assertEqual({query["job"] for query, _ in recorder.plans}, {"train"})

    def test_so_it_does_without_a_daemon(self) -> None:
        for name, make in LOADERS.items():
            with self.subTest(name), listening_to(Path("/nonexistent/admin.sock")):
                expected = run(make())
                with self.assertLogs("tenderfs", "WARNING") as logs:
                    self.assertEqual(run(tenderfs.wrap(make(), paths=path_of)), expected)
                self.assertEqual(len(logs.output), 1, "one warning for all epochs")

    def test_passes_that_are_given_up_change_nothing(self) -> None:
        for name, make in LOADERS.items():
            with self.subTest(name), Recorder() as recorder, listening_to(recorder.socket):
                expected = run(make(), epochs=4, stop_after=2)
                self.assertEqual(run(tenderfs.wrap(make(), paths=path_of), epochs=4, stop_after=2), expected)
                orders = recorder.orders()
                for epoch, order in enumerate(indices(expected)):
                    self.assertEqual(orders[epoch][: len(order)], order, f"epoch {epoch}")

    def test_an_order_that_nobody_knows_is_published_once_and_changes_nothing(self) -> None:
        with Recorder() as recorder, listening_to(recorder.socket):
            expected = run(uneven())
            with self.assertLogs("tenderfs", "WARNING") as logs:
                self.assertEqual(run(tenderfs.wrap(uneven(), paths=path_of)), expected)
            self.assertEqual((len(recorder.plans), len(logs.output)), (1, 1))
            self.assertIn("another order than was foreseen", logs.output[0])

    def test_errors_of_samplers_and_data_sets_come_through(self) -> None:
        class Failing(Sampler[int]):
            def __iter__(self) -> Iterator[int]:
                yield 1
                raise KeyError("mine")

        with Recorder() as recorder, listening_to(recorder.socket):
            loader = tenderfs.wrap(DataLoader(Numbers(), batch_size=1, sampler=Failing()), paths=path_of)
            with self.assertLogs("tenderfs", "WARNING"), self.assertRaisesRegex(KeyError, "mine"):
                for _ in loader:
                    pass


class Plans(unittest.TestCase):
    def publish(self, loader: DataLoader[Any], epochs: int = 1, **options: Any) -> Recorder:
        with Recorder() as recorder, listening_to(recorder.socket):
            wrapped = tenderfs.wrap(loader, **options)
            for _ in range(epochs):
                list(wrapped)
            settle()
        return recorder

    def test_a_plan_is_there_before_the_first_item_is_read(self) -> None:
        class Asking(Numbers):
            def __getitem__(self, index: int) -> tuple[int, int, int]:
                return index, len(recorder.plans), 0

        with Recorder() as recorder, listening_to(recorder.socket):
            loader = tenderfs.wrap(DataLoader(Asking(), batch_size=8, shuffle=True), paths=path_of)
            self.assertEqual(next(iter(loader))[1].tolist(), [1] * 8)

    def test_an_item_may_be_read_from_several_files_or_a_part_of_one(self) -> None:
        def paths(index: int) -> list[tenderfs.Entry]:
            return [path_of(index), (Path(MOUNTPOINT, "labels"), index * 4, 4)]

        loader = DataLoader(Numbers(), batch_size=3, sampler=[7, 5])  # type: ignore[arg-type]
        recorder = self.publish(loader, paths=paths)
        self.assertEqual(recorder.orders()[0], ["07", "labels\t28\t4", "05", "labels\t20\t4"])

    def test_image_folders_and_parts_of_them_tell_their_paths(self) -> None:
        class Folder(Numbers):
            def __init__(self, name: str) -> None:
                self.samples = [(f"{MOUNTPOINT}/{name}/{index}", 0) for index in range(ITEMS)]

        class Old(Numbers):
            imgs = [(f"{MOUNTPOINT}/old/{index}", 0) for index in range(ITEMS)]

        both = ConcatDataset([Folder("a"), Subset(Old(), [4, 2]), Folder("b")])
        part = Subset(both, [0, ITEMS, ITEMS + 1, ITEMS + 2, 1])
        recorder = self.publish(DataLoader(part, batch_size=2))
        self.assertEqual(recorder.orders()[0], ["a/0", "old/4", "old/2", "b/0", "a/1"])

    def test_ranks_come_from_the_sampler_or_the_launcher_or_the_caller(self) -> None:
        distributed = DistributedSampler(Numbers(), 4, 2)
        for sampler, variables, options, place in [
            (distributed, {"RANK": "1", "WORLD_SIZE": "2"}, {}, ("2", "4")),
            (None, {"RANK": "1", "WORLD_SIZE": "2"}, {}, ("1", "2")),
            (None, {"RANK": "x"}, {}, ("0", "1")),
            (None, {}, {}, ("0", "1")),
            (distributed, {}, {"rank": 5, "world": 6}, ("5", "6")),
        ]:
            with mock.patch.dict(os.environ, variables):
                loader = DataLoader(Numbers(), sampler=sampler)
                recorder = self.publish(loader, paths=path_of, **options)
            self.assertEqual({(query["rank"], query["world"]) for query, _ in recorder.plans}, {place})

    def test_jobs_are_named_by_launchers_and_each_loader_has_a_name_of_its_own(self) -> None:
        for variables, name in [
            ({"TENDERFS_JOB": "mine/2", "SLURM_JOB_ID": "7"}, "mine-2-3"),
            ({"TORCHELASTIC_RUN_ID": "run"}, "run-3"),
            ({"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "7"}, "slurm-7-3"),
            ({}, f"python-{os.getpid()}-3"),
        ]:
            with mock.patch.dict(os.environ, variables):
                self.assertEqual(_loader._job_name(3), name)
        names = [self.publish(DataLoader(Numbers()), paths=path_of).plans[0][0]["job"] for _ in range(2)]
        self.assertNotEqual(*names)

    def test_epochs_are_counted_from_where_a_job_goes_on(self) -> None:
        sampler = DistributedSampler(Numbers(), 2, 0)
        sampler.set_epoch(6)
        recorder = self.publish(DataLoader(Numbers(), sampler=sampler), epochs=3, paths=path_of)
        self.assertEqual(sorted(recorder.orders()), [6, 7, 8])

    def test_after_a_wrong_prediction_there_are_no_more(self) -> None:
        # Without `set_epoch` each epoch is as the one before, which is not what is foreseen.
        sampler = DistributedSampler(Numbers(), 2, 0)
        recorder = self.publish(DataLoader(Numbers(), sampler=sampler), epochs=4, paths=path_of)
        epochs = [int(query["epoch"]) for query, _ in recorder.plans]
        self.assertEqual(epochs, [0, 1, 1, 2, 3])
        orders = recorder.orders()
        self.assertEqual([orders[epoch] for epoch in (1, 2, 3)], [orders[0]] * 3)

    def test_a_daemon_that_started_anew_is_told_again(self) -> None:
        with Recorder() as recorder, listening_to(recorder.socket):
            loader = tenderfs.wrap(DataLoader(Numbers(), batch_size=9), paths=path_of)
            list(loader)
            settle()
            recorder.forget()
            list(loader)
            settle()
            self.assertEqual(sorted(recorder.orders()), [1, 2])

    def test_samplers_without_an_end_are_published_as_far_as_plans_go(self) -> None:
        class Endless(Sampler[int]):
            def __iter__(self) -> Iterator[int]:
                while True:
                    yield 3

        with Recorder() as recorder, listening_to(recorder.socket), mock.patch.object(_loader, "ENTRIES_MAX", 1000):
            loader = tenderfs.wrap(DataLoader(Numbers(), batch_size=None, sampler=Endless()), paths=path_of)
            self.assertEqual(next(iter(loader))[0], 3)
            self.assertEqual([len(lines) for _, lines in recorder.plans], [1000])


@unittest.skipIf(StatefulDataLoader is None, "torchdata is not installed: `pip install torchdata` lets this run")
class Resuming(unittest.TestCase):
    def test_a_loader_goes_on_where_it_was_and_publishes_what_is_left(self) -> None:
        for workers in (0, 2):
            with self.subTest(workers=workers), Recorder() as recorder, listening_to(recorder.socket):
                plain = self.saved_and_resumed(workers, lambda loader: loader)
                wrapped = self.saved_and_resumed(workers, lambda loader: tenderfs.wrap(loader, paths=path_of))
                self.assertEqual(wrapped, plain)
                settle()
                left = [f"{index:02}" for batch in wrapped[1] for index in batch]
                of_this_pass = [lines for query, lines in recorder.plans if query["epoch"] == "0"]
                self.assertEqual(of_this_pass[-1], left)
                self.assertEqual(len(left), ITEMS - 8)

    def saved_and_resumed(self, workers: int, wrap: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
        def make() -> Any:
            return wrap(StatefulDataLoader(Numbers(), batch_size=4, shuffle=True, num_workers=workers))

        def indices_of(batches: Any) -> list[Any]:
            return [batch[0].tolist() for batch in batches]

        torch.manual_seed(1)
        loader = make()
        batches = iter(loader)
        first = indices_of([next(batches), next(batches)])
        state = loader.state_dict()
        resumed = make()
        resumed.load_state_dict(state)
        return first, indices_of(resumed)


class Openness(unittest.TestCase):
    """Whatever goes wrong, the loader is there."""

    def check_unwrapped(self, loader: Any, said: str, **options: Any) -> None:
        with self.assertLogs("tenderfs", "WARNING") as logs:
            self.assertIs(tenderfs.wrap(loader, **options), loader)
        self.assertIn(said, logs.output[0])

    def test_what_cannot_be_wrapped_is_given_back(self) -> None:
        class Stream(IterableDataset):  # type: ignore[type-arg]
            def __iter__(self) -> Iterator[int]:
                return iter([1, 2])

        self.check_unwrapped(DataLoader(Stream()), "an IterableDataset", paths=path_of)
        self.check_unwrapped(DataLoader(Numbers()), "say it by `paths=`")
        self.check_unwrapped([1, 2, 3], "no attribute")

    def test_a_callers_paths_that_fail_are_a_warning(self) -> None:
        def paths(index: int) -> str:
            raise RuntimeError("mine")

        with Recorder() as recorder, listening_to(recorder.socket):
            loader = tenderfs.wrap(DataLoader(Numbers(), batch_size=4), paths=paths)
            with self.assertLogs("tenderfs", "WARNING") as logs:
                self.assertEqual(sum(len(batch[0]) for _ in range(2) for batch in loader), 2 * ITEMS)
        self.assertEqual(len(logs.output), 1)
        self.assertIn("mine", logs.output[0])

    def test_samplers_that_cannot_be_copied_run_all_the_same(self) -> None:
        class Held(UnevenBatches):
            def __init__(self) -> None:
                super().__init__()
                self.generator = (number for number in range(3))

        with Recorder() as recorder, listening_to(recorder.socket):
            loader = tenderfs.wrap(DataLoader(Numbers(), batch_sampler=Held()), paths=path_of)
            with self.assertLogs("tenderfs", "WARNING") as logs:
                self.assertEqual(run(loader), run(DataLoader(Numbers(), batch_sampler=Held())))
            self.assertEqual((len(logs.output), recorder.plans), (1, []))

    def test_daemons_that_misbehave_cost_a_warning_and_little_time(self) -> None:
        for manners in ("refuse", "hang", "close", "garbage"):
            with self.subTest(manners), Recorder(manners) as recorder, listening_to(recorder.socket):
                loader = tenderfs.wrap(LOADERS["by a generator and workers"](), paths=path_of)
                expected = run(LOADERS["by a generator and workers"](), epochs=1)
                started = time.monotonic()
                with self.assertLogs("tenderfs", "WARNING") as logs:
                    self.assertEqual(run(loader, epochs=1), expected)
                self.assertEqual(len(logs.output), 1)
                self.assertLess(time.monotonic() - started, 5 * _daemon.ANSWER_SECONDS)

    def test_the_loader_is_still_a_loader(self) -> None:
        original = DataLoader(Numbers(), batch_size=4, shuffle=True, generator=seeded(1))
        loader = tenderfs.wrap(original, paths=path_of)
        self.assertIsInstance(loader, DataLoader)
        self.assertEqual((len(loader), loader.batch_size), (10, 4))
        self.assertIs(loader.dataset, original.dataset)
        self.assertIs(loader.batch_sampler.sampler, original.sampler)  # type: ignore[union-attr]
        self.assertIs(tenderfs.wrap(loader), loader, "it is wrapped already")
        self.assertIsInstance(original.batch_sampler, BatchSampler, "the original is as it was")
        for twin in (copy.deepcopy(loader.batch_sampler), pickle.loads(pickle.dumps(loader.batch_sampler))):
            self.assertIsInstance(twin, BatchSampler)
        loader.batch_sampler.drop_last = True  # type: ignore[union-attr]
        self.assertEqual(len(original), 9)


if __name__ == "__main__":
    unittest.main()
