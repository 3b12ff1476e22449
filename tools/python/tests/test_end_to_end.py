"""Against the real daemon, a real mount, and a lab whose ledger says what was fetched, and when."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import tarfile
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import lab
import tenderfs
from tenderfs import _daemon, _plan

if lab.obstacle():
    raise unittest.SkipTest(f"nothing can be mounted: {lab.obstacle()}")

try:
    import torch
    from torch.utils.data import DataLoader, Dataset, DistributedSampler
except ImportError:
    torch = None  # type: ignore[assignment]
    Dataset = object  # type: ignore[assignment,misc]
try:
    import webdataset
except ImportError:
    webdataset = None
try:
    from torchvision.datasets import ImageFolder
except ImportError:
    ImageFolder = None

NO_TORCH = "torch is not installed: `pip install torch` lets this run"
NO_WEBDATASET = "webdataset is not installed: `pip install webdataset` lets this run"
NO_TORCHVISION = "torchvision is not installed: `pip install torchvision` lets this run"

FILE_BYTES = 64 << 10


def content(number: int) -> bytes:
    return random.Random(number).randbytes(FILE_BYTES)


class Files(Dataset):  # type: ignore[type-arg]
    """Reads a file for each item. `before` is called with its path before it is opened, in the worker."""

    def __init__(self, paths: list[str], before: Any = None) -> None:
        self.paths = paths
        self.before = before

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, bytes, int]:
        if self.before is not None:
            self.before(self.paths[index])
        return index, Path(self.paths[index]).read_bytes(), int(torch.randint(1 << 30, ()))


class Staged(unittest.TestCase):
    """A stage with small files, served, and the environment pointing to it."""

    def stage(self, files: int = 0, **options: Any) -> lab.Stage:
        stage = self.enterContext_(lab.Stage(**options))
        self.paths = [str(stage.put(f"set/{n:03}.jpg", content(n))) for n in range(files)]
        self.enterContext_(mock.patch.dict(os.environ, {_daemon.SOCKET_VARIABLE: str(stage.socket)}))
        _plan._complaints.clear()
        return stage

    def enterContext_(self, context: Any) -> Any:
        entered = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return entered


def used(job: str, epoch: int) -> tuple[int, int]:
    """Entries of a plan, and how many were read."""
    for mount in tenderfs.stats(job):
        for plan in (plan for one in mount.jobs for plan in one.plans if plan.epoch == epoch):
            return plan.entries, plan.used
    return 0, 0


class WithoutTorch(Staged):
    def test_a_published_order_is_fetched_once(self) -> None:
        stage = self.stage(60).start()
        order = list(self.paths)
        random.Random(1).shuffle(order)
        published = tenderfs.publish([*order, "/etc/hostname"], job="plain", epoch=2)
        self.assertEqual(published, ("plain", 2, 0, 60, 1, (str(stage.mountpoint),)))
        lab.eventually("all files", lambda: len(stage.gets()) == 60)
        self.assertEqual({entry["key"] for entry in stage.gets()}, {f"set/{n:03}.jpg" for n in range(60)})
        for number, path in enumerate(self.paths):
            self.assertEqual(Path(path).read_bytes(), content(number))
        self.assertEqual(len(stage.gets()), 60)
        self.assertEqual(used("plain", 2), (60, 60))

    def test_figures_are_those_of_the_daemon(self) -> None:
        stage = self.stage(3).start()
        tenderfs.publish(self.paths, job="a")
        tenderfs.publish(self.paths[:1], job="b", epoch=7, rank=1, world=2)
        lab.eventually("all files", lambda: len(stage.gets()) == 3)
        Path(self.paths[0]).read_bytes()
        (mount,) = tenderfs.stats()
        self.assertEqual((mount.mountpoint, mount.source), (str(stage.mountpoint), f"s3://{lab.BUCKET}"))
        self.assertEqual((mount.served_bytes, mount.errors), (FILE_BYTES, 0))
        self.assertGreaterEqual(mount.s3_received_bytes, 3 * FILE_BYTES)
        self.assertEqual([(job.job, job.world) for job in mount.jobs], [("a", 1), ("b", 2)])
        plan = mount.jobs[1].plans[0]
        self.assertEqual((plan.epoch, plan.rank, plan.entries, plan.used, plan.missing), (7, 1, 1, 1, 0))
        self.assertEqual(mount.jobs[0].plans[0].ready_bytes, 2 * FILE_BYTES)
        tenderfs.cancel("a")
        self.assertEqual([job.job for job in tenderfs.stats()[0].jobs], ["b"])
        self.assertEqual(tenderfs.stats("a")[0].jobs, ())

    def test_a_refused_plan_is_a_warning_with_the_daemons_own_words(self) -> None:
        self.stage(1).start()
        with self.assertLogs("tenderfs", "WARNING") as logs:
            self.assertIsNone(tenderfs.publish(self.paths, job="no/job"))
            self.assertIsNone(tenderfs.publish(self.paths, job="no/job", epoch=1))
        self.assertEqual(len(logs.output), 1)
        self.assertIn("a job is named by", logs.output[0])

    def test_a_daemon_that_hangs_or_is_dead_or_new_costs_no_more_than_it_must(self) -> None:
        stage = self.stage(2).start()
        stage.signal_daemon(signal.SIGSTOP)
        started = time.monotonic()
        with self.assertLogs("tenderfs", "WARNING") as logs:
            self.assertIsNone(tenderfs.publish(self.paths, job="hung"))
        self.assertLess(time.monotonic() - started, 3 * _daemon.ANSWER_SECONDS)
        self.assertIn("it took too long", logs.output[0])
        stage.stop_daemon(signal.SIGKILL)
        with self.assertLogs("tenderfs", "WARNING") as logs:
            self.assertIsNone(tenderfs.publish(self.paths, job="dead"))
        self.assertIn("no daemon answers", logs.output[0])
        stage.start_daemon()
        self.assertIsNotNone(tenderfs.publish(self.paths, job="dead"))

    def test_parts_of_shards_are_fetched_as_their_samples_are_read(self) -> None:
        stage = self.stage()
        shards = []
        for number, len_bytes in enumerate([20 << 20, 3 << 20, 5 << 20]):
            name = f"shard.{number:05}.mds"
            stage.put(f"mds/{name}", bytes(len_bytes))
            shards.append({"raw_data": {"basename": name, "bytes": len_bytes}, "samples": 100})
        stage.put("mds/index.json", json.dumps({"version": 2, "shards": shards}).encode())
        stage.start()
        reads = tenderfs.mosaicml_reads(stage.mountpoint / "mds", [299, 5, 298, 101])
        stage.control("DELETE", "/ledger")
        published = tenderfs.publish(reads, job="mds")
        assert published is not None
        self.assertEqual(published.entries, 4)
        total = 28 << 20
        lab.eventually("all bytes", lambda: sum(get["body_bytes_sent"] for get in stage.gets()) == total)
        firsts = list(dict.fromkeys(get["key"] for get in stage.gets()))
        self.assertEqual(sorted(firsts), [f"mds/shard.0000{number}.mds" for number in range(3)])


@unittest.skipIf(torch is None, NO_TORCH)
class WithTorch(Staged):
    FILES = 160

    def loader(self, paths: list[str], before: Any = None, **options: Any) -> Any:
        generator = torch.Generator().manual_seed(11)
        return DataLoader(Files(paths, before), 8, shuffle=True, generator=generator, collate_fn=list, **options)

    def twins(self, stage: lab.Stage) -> list[str]:
        """The same files where the lab has them, without a mount."""
        return [str(stage.bucket / "set" / Path(path).name) for path in self.paths]

    def test_files_are_fetched_by_plan_before_they_are_opened_once_each(self) -> None:
        for persistent in (False, True):
            with self.subTest(persistent_workers=persistent):
                self.check_two_epochs({"num_workers": 2, "persistent_workers": persistent})

    def check_two_epochs(self, workers: dict[str, Any]) -> None:
        stage = self.stage(self.FILES, first_byte="5ms").start()
        notes = stage.folder / "notes"

        def before(path: str) -> None:
            """Nobody has opened this file yet in the first epoch, so if it was fetched, it was by plan."""
            key = f"set/{Path(path).name}"
            fetched = lambda: any(get["key"] == key and get["ended_ns"] for get in stage.gets())  # noqa: E731
            lab.eventually(f"{key} to be fetched", fetched)
            with notes.open("a") as file:
                file.write(f"{key}\n")

        loader = tenderfs.wrap(self.loader(self.paths, before, **workers), paths=lambda i: self.paths[i], job="train")
        plain = self.loader(self.twins(stage), **workers)
        torch.manual_seed(5)
        seen = [list(loader) for _ in range(2)]
        gets = stage.gets()
        torch.manual_seed(5)
        expected = [list(plain) for _ in range(2)]
        self.assertEqual(seen, expected, "batches, bytes and the randomness of workers")
        self.assertNotEqual(seen[0], seen[1])
        self.assertEqual(len(notes.read_text().splitlines()), 2 * self.FILES)
        self.assertEqual(sorted(get["key"] for get in gets), [f"set/{n:03}.jpg" for n in range(self.FILES)], "once")
        self.assertEqual(sum(get["body_bytes_sent"] for get in gets), self.FILES * FILE_BYTES)
        self.assertEqual(used("train", 1), (self.FILES, self.FILES))

    def test_what_is_fetched_ahead_is_what_comes_next_in_the_plan(self) -> None:
        stage = self.stage(self.FILES, settings={"plans": {"window": '"1MiB"'}}).start()
        ahead = stage.folder / "ahead"

        def before(_: str) -> None:
            """The first worker to come waits until the window is full, and notes what was fetched."""
            try:
                file = ahead.open("x")
            except FileExistsError:
                return
            with file:
                lab.eventually("a full window", lambda: is_full(len(stage.gets())))
                file.write("\n".join(sorted(get["key"] for get in stage.gets())))

        def is_full(gets: int) -> bool:
            (mount,) = tenderfs.stats("train")
            return gets >= 16 and mount.jobs[0].plans[0].taken == gets

        loader = self.loader(self.paths, before, num_workers=1)
        loader = tenderfs.wrap(loader, paths=lambda i: self.paths[i], job="train")
        first, second = ([index for batch in loader for index, _, _ in batch] for _ in range(2))
        self.assertEqual((sorted(first), sorted(second)), (list(range(self.FILES)),) * 2)
        plan = [f"set/{index:03}.jpg" for index in first]
        fetched = ahead.read_text().splitlines()
        # As much as the window, and what both cores looked up when each of the two plans came.
        self.assertTrue(16 <= len(fetched) < 64, fetched)
        self.assertEqual(fetched, sorted(plan[: len(fetched)]))
        gets = [get["key"] for get in stage.gets()]
        self.assertEqual(sorted(gets), sorted(plan), "each once, in two epochs")

    def test_two_ranks_read_their_halves_by_plan(self) -> None:
        stage = self.stage(self.FILES).start()
        loaders = []
        for rank in range(2):
            files = Files(self.paths)
            sampler: Any = DistributedSampler(files, 2, rank, seed=3)
            loader = DataLoader(files, 8, sampler=sampler, collate_fn=list, num_workers=1)
            loaders.append(tenderfs.wrap(loader, paths=lambda i: self.paths[i], job="ranks"))
        for epoch in range(2):
            for loader in loaders:
                loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            read = [index for batches in zip(*loaders) for batch in batches for index, _, _ in batch]
            self.assertEqual(sorted(read), list(range(self.FILES)))
        self.assertEqual(len(stage.gets()), self.FILES)
        (mount,) = tenderfs.stats("ranks")
        last = [plan for plan in mount.jobs[0].plans if plan.epoch == 1]
        self.assertEqual([(plan.rank, plan.used) for plan in last], [(0, 80), (1, 80)])
        self.assertEqual({plan.epoch for plan in mount.jobs[0].plans} - {0, 1}, {2}, "what would come next")

    def test_training_goes_on_when_the_daemon_dies_or_hangs_between_epochs(self) -> None:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            with self.subTest(number):
                stage = self.stage(40).start()
                # What is read lies elsewhere: of a mount without its daemon nobody could read.
                local = self.twins(stage)
                loader = tenderfs.wrap(self.loader(local), paths=lambda i: self.paths[i], job="train")
                plain = self.loader(local)
                torch.manual_seed(1)
                seen = [list(loader)]
                lab.eventually("the next epoch's plan", lambda: used("train", 1)[0] == 40)
                if number == signal.SIGKILL:
                    stage.stop_daemon(number)
                else:
                    stage.signal_daemon(number)
                started = time.monotonic()
                with self.assertLogs("tenderfs", "WARNING") as logs:
                    seen += [list(loader), list(loader)]
                self.assertLess(time.monotonic() - started, 15)
                self.assertEqual(len(logs.output), 1)
                torch.manual_seed(1)
                self.assertEqual(seen, [list(plain) for _ in range(3)])

    @unittest.skipIf(ImageFolder is None, NO_TORCHVISION)
    def test_an_image_folder_needs_no_paths(self) -> None:
        from PIL import Image

        stage = self.stage()
        for number in range(30):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 2 * number, 3 * number)).save(picture, "PNG")
            stage.put(f"train/{'cat' if number % 2 else 'dog'}/{number:02}.png", picture.getvalue())
        stage.start()
        folders = [
            ImageFolder(str(where / "train"), lambda image: image.getpixel((0, 0)))
            for where in (stage.mountpoint, stage.bucket)
        ]
        loaders = [DataLoader(folder, 4, shuffle=True, num_workers=2, collate_fn=list) for folder in folders]
        torch.manual_seed(2)
        seen = list(tenderfs.wrap(loaders[0], job="images"))
        torch.manual_seed(2)
        self.assertEqual(seen, list(loaders[1]))
        self.assertEqual(used("images", 0), (30, 30))
        self.assertEqual(len(stage.gets()), 30)

    @unittest.skipIf(webdataset is None, NO_WEBDATASET)
    def test_webdataset_finds_the_shards_fetched_that_were_published(self) -> None:
        stage = self.stage()
        for number in range(12):
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for sample in range(5):
                    member = tarfile.TarInfo(f"{number:02}-{sample}.bin")
                    member.size = FILE_BYTES
                    tar.addfile(member, io.BytesIO(content(number * 5 + sample)))
            stage.put(f"shard-{number:06}.tar", packed.getvalue())
        stage.start()
        pattern = f"{stage.mountpoint}/shard-{{000000..000011}}.tar"
        for epoch in range(2):
            shards = tenderfs.shuffled_shards(pattern, seed=4, epoch=epoch)
            published = tenderfs.publish_webdataset(shards, job="wds", epoch=epoch)
            assert published is not None
            self.assertEqual((published.entries, published.left_out), (12, 0))
            if epoch == 0:
                lab.eventually("all shards", lambda: len(stage.gets()) == 12)
            dataset = webdataset.WebDataset(shards, shardshuffle=False, nodesplitter=webdataset.split_by_node)
            samples = list(DataLoader(dataset, None, num_workers=2))
            keys = [sample["__key__"] for sample in samples]
            self.assertEqual(sorted(keys), [f"{number:02}-{sample}" for number in range(12) for sample in range(5)])
            for key, sample in zip(keys, samples):
                number, part = map(int, key.split("-"))
                self.assertEqual(sample["bin"], content(number * 5 + part))
            self.assertEqual(used("wds", epoch), (12, 12))
        self.assertEqual(len(stage.gets()), 12, "each shard once")


if __name__ == "__main__":
    unittest.main()
