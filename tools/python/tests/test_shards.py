"""Shards: names from braces, orders that all ranks agree on, and what MosaicML's index says."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import tenderfs
from recorder import Recorder
from test_plans import listening_to

PATTERNS = [
    "shard-{000000..000012}.tar",
    "{8..11}",
    "{08..11}",
    "{11..8}",
    "{-3..3}",
    "{-03..3}",
    "{0..10..3}",
    "{10..0..3}",
    "{10..0..-3}",
    "{a..e}",
    "{e..a..2}",
    "{train,val}/{a,b}-{0..2}.tar",
    "x{a,b{1..3},{c,d}e}y",
    "a{,.bak}",
    "{a,b,}",
    "{x}",
    "{{a,b}}",
    "{{0..2}}",
    "{a,b",
    "a,b}",
    "{a{b,c}",
    "{}",
    "{}{a,b}",
    "plain.tar",
    "{1..2}{x..y}",
    "{0..0}",
    "{1..a}",
    "{001..3}",
    "{1...3}",
]


class Braces(unittest.TestCase):
    @unittest.skipIf(shutil.which("bash") is None, "there is no bash to compare with")
    def test_braces_stand_for_what_bash_says(self) -> None:
        script = "".join(f"printf '%s\\n' {pattern}; echo; " for pattern in PATTERNS)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        expected = [block.splitlines() for block in done.stdout.split("\n\n")]
        for pattern, names in zip(PATTERNS, expected):
            # Words that are nothing are none to bash.
            self.assertEqual([name for name in tenderfs.expand_braces(pattern) if name], names, pattern)

    def test_a_thousand_shards_keep_their_zeros(self) -> None:
        names = tenderfs.expand_braces("s3/shard-{000000..000999}.tar")
        self.assertEqual((len(names), names[0], names[-1]), (1000, "s3/shard-000000.tar", "s3/shard-000999.tar"))

    def test_more_names_than_anybody_has_are_refused(self) -> None:
        for pattern in ("{0..99999999}", "{0..9999}{0..9999}"):
            with self.assertRaises(ValueError):
                tenderfs.expand_braces(pattern)


class Orders(unittest.TestCase):
    def test_each_epoch_has_an_order_of_its_own_that_is_the_same_everywhere(self) -> None:
        first = tenderfs.shuffled_shards("s-{00..99}.tar", seed=5, epoch=0)
        again = tenderfs.shuffled_shards(tenderfs.expand_braces("s-{00..99}.tar"), seed=5)
        second = tenderfs.shuffled_shards("s-{00..49}.tar::s-{50..99}.tar", seed=5, epoch=1)
        self.assertEqual(first, again)
        self.assertNotEqual(first, second)
        self.assertEqual(sorted(first), sorted(second))
        # As any Python makes it: ranks may run different ones.
        self.assertEqual(first[:4], ["s-05.tar", "s-42.tar", "s-19.tar", "s-39.tar"])

    def test_a_rank_publishes_the_shards_that_it_reads(self) -> None:
        shards = ["/mnt/data/0.tar", "file:/mnt/data/1.tar", "/mnt/data/2.tar", "pipe:cat x", "/mnt/data/4.tar", "5"]
        with Recorder() as recorder, listening_to(recorder.socket):
            for rank, left_out in ((0, 0), (1, 2)):
                published = tenderfs.publish_webdataset(shards, job="wds", epoch=2, rank=rank, world=2)
                assert published is not None
                self.assertEqual(published.left_out, left_out)
            lines = [(query["rank"], lines) for query, lines in recorder.plans]
            self.assertEqual(lines, [("0", ["0.tar", "2.tar", "4.tar"]), ("1", ["1.tar"])])


class MosaicML(unittest.TestCase):
    MIB = 1 << 20

    def index(self, folder: Path) -> None:
        def shard(number: int, len_bytes: int, samples: int) -> dict[str, object]:
            raw = {"basename": f"shard.{number:05}.mds", "bytes": len_bytes, "hashes": {}}
            return {"format": "mds", "version": 2, "raw_data": raw, "zip_data": None, "samples": samples}

        shards = [shard(0, 20 * self.MIB, 10), shard(1, 16 * self.MIB, 5), shard(2, 3, 1)]
        text = {"basename": "shard.00003.jsonl", "bytes": 7}, {"basename": "shard.00003.jsonl.meta", "bytes": 2}
        shards.append({"format": "json", "raw_data": text[0], "raw_meta": text[1], "samples": 2})
        (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))

    def test_shards_come_in_parts_in_the_order_in_which_their_samples_are_read(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            self.index(Path(name))
            first, mib = f"{name}/shard.00000.mds", self.MIB
            shards = [
                [(first, 0, 16 * mib), (first, 16 * mib, 4 * mib)],
                [(f"{name}/shard.00001.mds", 0, 16 * self.MIB)],
                [(f"{name}/shard.00002.mds", 0, 3)],
                [(f"{name}/shard.00003.jsonl.meta", 0, 2), (f"{name}/shard.00003.jsonl", 0, 7)],
            ]
            for samples, order in [
                (None, [0, 1, 2, 3]),
                ([17, 0, 16, 9, 15, 10], [3, 0, 2, 1]),
                ([14, 10, 9], [1, 0]),
                ([], []),
            ]:
                expected = [part for number in order for part in shards[number]]
                self.assertEqual(tenderfs.mosaicml_reads(name, samples), expected, samples)
            for sample in (18, -1):
                with self.assertRaises(ValueError):
                    tenderfs.mosaicml_reads(Path(name), [sample])


if __name__ == "__main__":
    unittest.main()
