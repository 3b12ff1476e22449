"""Plans: which lines are sent to whom, and what happens when nobody takes them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import tenderfs
from tenderfs import _complaints, _daemon, _plan
from recorder import MOUNTPOINT, Recorder


def listening_to(path: Path) -> mock._patch_dict:
    return mock.patch.dict(os.environ, {_daemon.SOCKET_VARIABLE: str(path)})


class Lines(unittest.TestCase):
    def check(self, entry: tenderfs.Entry, line: str | None, mountpoint: str = MOUNTPOINT) -> None:
        plans, left_out = _plan.cut([entry], ["/mnt/data/inner", "/mnt/data", "/mnt"])
        expected = {} if line is None else {mountpoint: [line + "\n"]}
        self.assertEqual((plans, left_out), (expected, 0 if line is not None else 1), entry)

    def test_paths_are_named_as_below_the_nearest_mount(self) -> None:
        self.check("/mnt/data/a/b.jpg", "a/b.jpg")
        self.check(Path("/mnt/data/a b"), "a b")
        self.check("/mnt/data/é.jpg", "é.jpg")
        self.check("/mnt/data/inner/x", "x", "/mnt/data/inner")
        self.check("/mnt/data/innermost", "innermost")
        self.check("/mnt/database/x", "database/x", "/mnt")
        self.check("/mnt/data//a/./b/../c", "a/c")
        self.check("/mnt/data/.hidden", ".hidden")
        self.check("/mnt/data/a..b", "a..b")

    def test_parts_have_offset_and_length(self) -> None:
        self.check(("/mnt/data/a", 0, 10), "a\t0\t10")
        self.check((Path("/mnt/data/a"), 1 << 40, 1), f"a\t{1 << 40}\t1")

    def test_what_a_plan_cannot_hold_is_left_out(self) -> None:
        for name in ("a\tb", "a\nb", "a\r", "a\0b", "a\udcff", "../../home/x"):
            self.check("/mnt/data/" + name, None)
        for path in ("/home/a", "/mnt", "/mnt/", ""):
            self.check(path, None)
        self.check(("/mnt/data/a", -1, 10), None)
        self.check(("/mnt/data/a", 0, 0), None)
        self.check(("/mnt/data/a", 1 << 63, 1), None)

    def test_relative_paths_and_links_are_followed_to_the_mount(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = os.path.realpath(name)
            os.makedirs(f"{folder}/mnt/train")
            os.symlink(f"{folder}/mnt", f"{folder}/link")
            before = os.getcwd()
            os.chdir(f"{folder}/mnt")
            try:
                plans, left_out = _plan.cut(["train/a", f"{folder}/link/train/b"], [f"{folder}/mnt"])
            finally:
                os.chdir(before)
            self.assertEqual((plans, left_out), ({f"{folder}/mnt": ["train/a\n", "train/b\n"]}, 0))

    def test_a_million_lines_are_made_in_seconds(self) -> None:
        paths = [f"/mnt/data/train/n{number // 1300:08}/{number}.JPEG" for number in range(1_000_000)]
        started = time.process_time()
        plans, _ = _plan.cut(paths, ["/mnt/data"])
        self.assertEqual(len(plans["/mnt/data"]), len(paths))
        self.assertLess(time.process_time() - started, 10)


class Publishing(unittest.TestCase):
    def setUp(self) -> None:
        _plan._complaints.clear()

    def test_each_mount_is_given_its_part_of_the_order(self) -> None:
        order: list[tenderfs.Entry] = ["/mnt/a/1", "/mnt/b/1", "/home/x", ("/mnt/a/2", 5, 6)]
        with Recorder(mountpoints=("/mnt/a", "/mnt/b")) as recorder, listening_to(recorder.socket):
            published = tenderfs.publish(order, job="train", epoch=4, rank=1, world=2)
            self.assertEqual(published, ("train", 4, 1, 3, 1, ("/mnt/a", "/mnt/b")))
            query = {"job": "train", "epoch": "4", "rank": "1", "world": "2"}
            a, b = {**query, "mount": "/mnt/a"}, {**query, "mount": "/mnt/b"}
            self.assertEqual(recorder.plans, [(a, ["1", "2\t5\t6"]), (b, ["1"])])
            assert published is not None
            self.assertTrue(_plan.is_known(published))
            recorder.plans.pop()
            self.assertFalse(_plan.is_known(published))

    def test_without_a_daemon_there_is_one_warning_for_each_job(self) -> None:
        with tempfile.TemporaryDirectory() as folder, listening_to(Path(folder, "admin.sock")):
            with self.assertLogs("tenderfs", "WARNING") as logs:
                for epoch in range(3):
                    self.assertIsNone(tenderfs.publish(["/mnt/data/a"], job="a", epoch=epoch))
                self.assertIsNone(tenderfs.publish(["/mnt/data/a"], job="b"))
            self.assertEqual(len(logs.output), 2, logs.output)
            self.assertIn("admin.sock", logs.output[0])
            self.assertEqual(tenderfs.stats(), [])
            tenderfs.cancel("a")

    def test_a_daemon_that_misbehaves_costs_a_warning_and_little_time(self) -> None:
        for manners, said in [
            ("refuse", "line 3: a length of 0"),
            ("hang", "it took too long"),
            ("close", "no answer from"),
            ("garbage", "no answer from"),
        ]:
            with self.subTest(manners), Recorder(manners) as recorder, listening_to(recorder.socket):
                started = time.monotonic()
                with self.assertLogs("tenderfs", "WARNING") as logs:
                    self.assertIsNone(tenderfs.publish(["/mnt/data/a"], job=manners))
                self.assertIn(said, logs.output[0])
                self.assertLess(time.monotonic() - started, 3 * _daemon.ANSWER_SECONDS)

    def test_paths_that_no_mount_serves_are_said_to_be_that(self) -> None:
        with Recorder() as recorder, listening_to(recorder.socket):
            with self.assertLogs("tenderfs", "WARNING") as logs:
                self.assertIsNone(tenderfs.publish(["/home/a"], job="train"))
        self.assertIn("the mounts are: /mnt/data", logs.output[0])

    def test_the_first_complaint_warns_and_the_others_do_not(self) -> None:
        complaints = _complaints.Complaints()
        with self.assertLogs("tenderfs", "DEBUG") as logs:
            complaints.say("first: %s", "x")
            complaints.say("second")
        self.assertEqual([record.levelname for record in logs.records], ["WARNING", "DEBUG"])


class Sockets(unittest.TestCase):
    def test_the_one_that_is_named_is_the_only_one(self) -> None:
        with listening_to(Path("/tmp/x.sock")):
            self.assertEqual(_daemon.sockets(), [Path("/tmp/x.sock")])

    def test_users_have_folders_of_their_own_and_the_systems(self) -> None:
        system = Path("/run/tenderfs")
        for user, variables, folders in [
            (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, [system]),
            (7, {"XDG_RUNTIME_DIR": "/run/user/7"}, [Path("/run/user/7/tenderfs"), system]),
            (7, {}, [Path("/tmp/tenderfs-7"), system]),
        ]:
            with mock.patch("os.geteuid", return_value=user), mock.patch.dict(os.environ, variables, clear=True):
                self.assertEqual(_daemon._run_folders(), folders)

    def test_daemons_are_found_in_the_folder_beside_sockets_of_dead_ones(self) -> None:
        with Recorder() as recorder, mock.patch.dict(os.environ):
            os.environ.pop(_daemon.SOCKET_VARIABLE, None)
            folder = recorder.socket.parent
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(folder / "a-dead.sock"))
            (folder / "notes.txt").write_text("no socket")
            with mock.patch.object(_daemon, "_run_folders", return_value=[folder / "none", folder]):
                self.assertEqual(_daemon.sockets(), [recorder.socket, folder / "a-dead.sock"])
                self.assertEqual([daemon.socket for daemon in _daemon.daemons()], [recorder.socket])


class Package(unittest.TestCase):
    def test_importing_it_needs_nothing_but_python(self) -> None:
        source = str(Path(tenderfs.__file__).parents[1])
        code = f"import sys; sys.path.insert(0, {source!r}); import tenderfs; print('torch' in sys.modules)"
        # -S and -I: not even installed packages can be found.
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
        self.assertEqual((done.stdout, done.stderr), ("False\n", ""))


if __name__ == "__main__":
    unittest.main()
