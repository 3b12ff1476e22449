"""Shards: lists of large files that are read one after another, by WebDataset and by MosaicML Streaming."""

from __future__ import annotations

import json
import os
import random
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Optional, Union

from ._plan import Entry, Published, publish

SHARDS_MAX = 10_000_000
"""Names that a pattern may stand for."""

PART_BYTES = 16 << 20
"""What a daemon fetches ahead for one entry at most."""

_INTEGERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\Z", re.ASCII)
_LETTERS = re.compile(r"([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d+))?\Z", re.ASCII)


def expand_braces(pattern: str) -> list[str]:
    """The names that `shard-{000000..000999}.tar` or `{train,val}.tar` stands for, as a shell would say.

    Ranges keep their leading zeros and may have a step, `{0..9..3}`; braces nest. What is no pattern stands for
    itself. ValueError if it stands for more than ten million names.
    """
    found = _first_braces(pattern)
    if found is None:
        return [pattern]
    before, alternatives, after = found
    tails = expand_braces(after)
    middles: list[str] = []
    for alternative in alternatives:
        middles += expand_braces(alternative)
        if len(middles) * len(tails) > SHARDS_MAX:
            raise ValueError(f"{pattern} stands for more than {SHARDS_MAX} names")
    return [before + middle + tail for middle in middles for tail in tails]


def _first_braces(pattern: str) -> Optional[tuple[str, list[str], str]]:
    """What stands before, in and after the first braces that say something."""
    for start, character in enumerate(pattern):
        if character != "{":
            continue
        stop, commas = _closing(pattern, start)
        if stop is None:
            continue
        inside = pattern[start + 1 : stop]
        alternatives = _range(inside)
        if alternatives is None and commas:
            cuts = [start, *commas, stop]
            alternatives = [pattern[left + 1 : right] for left, right in zip(cuts, cuts[1:])]
        if alternatives is not None:
            return pattern[:start], alternatives, pattern[stop + 1 :]
    return None


def _closing(pattern: str, start: int) -> tuple[Optional[int], list[int]]:
    """Where the brace at `start` is closed, and the commas that are its own."""
    depth = 0
    commas: list[int] = []
    for place in range(start, len(pattern)):
        character = pattern[place]
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return place, commas
        elif character == "," and depth == 1:
            commas.append(place)
    return None, []


def _range(inside: str) -> Optional[list[str]]:
    """`3..7`, `a..e`, either with a step; None if it is neither."""
    integers, letters = _INTEGERS.match(inside), _LETTERS.match(inside)
    if integers:
        first, last = int(integers[1]), int(integers[2])
        padded = any(re.match(r"-?0\d", text) for text in (integers[1], integers[2]))
        width = max(len(integers[1]), len(integers[2])) if padded else 0
        return [f"{number:0{width}d}" for number in _steps(first, last, integers[3])]
    if letters:
        return [chr(code) for code in _steps(ord(letters[1]), ord(letters[2]), letters[3])]
    return None


def _steps(first: int, last: int, step: Optional[str]) -> range:
    size = abs(int(step or 1)) or 1
    if abs(last - first) // size >= SHARDS_MAX:
        raise ValueError(f"{first}..{last} stands for more than {SHARDS_MAX} names")
    return range(first, last + 1, size) if first <= last else range(first, last - 1, -size)


def shuffled_shards(shards: Union[str, Iterable[str]], *, seed: int, epoch: int = 0) -> list[str]:
    """The shards in an order of their own for each epoch, the same on every rank. A string is a pattern with braces,
    or several with `::` between them.
    """
    names = _names(shards)
    random.Random(f"{seed}/{epoch}").shuffle(names)
    return names


def publish_webdataset(
    shards: Union[str, Iterable[str]], *, job: str, epoch: int = 0, rank: int = 0, world: int = 1
) -> Optional[Published]:
    """Publishes the shards that `wds.WebDataset(shards, shardshuffle=False, nodesplitter=wds.split_by_node)` reads on
    this rank: one in `world`, whichever worker opens it. What is no file, such as `pipe:`, is left out.
    """
    own = _names(shards)[rank::world]
    return publish(
        [name[len("file:") :] if name.startswith("file:") else name for name in own],
        job=job,
        epoch=epoch,
        rank=rank,
        world=world,
    )


def _names(shards: Union[str, Iterable[str]]) -> list[str]:
    if isinstance(shards, str):
        return [name for pattern in shards.split("::") for name in expand_braces(pattern)]
    return list(shards)


def mosaicml_reads(
    directory: Union[str, "os.PathLike[str]"], samples: Optional[Iterable[int]] = None
) -> list[Entry]:
    """What a MosaicML StreamingDataset with `local=directory` reads: the shards of `directory/index.json`.

    `samples` are the numbers of the samples in the order in which they are read; each shard comes when its first
    sample does. Without them the shards come in the order of the index, all of them. Shards are read sample by
    sample, each with an open of its own, so they are named in parts rather than as files that are closed once.
    """
    folder = Path(os.path.abspath(directory))
    shards: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())["shards"]
    which = range(len(shards)) if samples is None else _first_uses(shards, samples)
    return [part for number in which for part in _parts(folder, shards[number])]


def _first_uses(shards: Sequence[dict[str, Any]], samples: Iterable[int]) -> Iterable[int]:
    ends = list(accumulate(int(shard["samples"]) for shard in shards))
    count = ends[-1] if ends else 0
    seen: dict[int, None] = {}
    for sample in samples:
        if not 0 <= sample < count:
            raise ValueError(f"there is no sample {sample}: the index has {count}")
        seen.setdefault(bisect_right(ends, sample))
    return seen


def _parts(folder: Path, shard: dict[str, Any]) -> Iterable[Entry]:
    """The files of a shard: its data, and for text formats the places of its samples, which are read first."""
    for file in (shard.get("raw_meta"), shard["raw_data"]):
        if file:
            path, len_bytes = str(folder / file["basename"]), int(file["bytes"])
            for offset in range(0, len_bytes, PART_BYTES):
                yield path, offset, min(PART_BYTES, len_bytes - offset)
