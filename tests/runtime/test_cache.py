"""The cache: found by content, checked when read, bounded, shared, and never in the way."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from veridical.runtime import cache as module
from veridical.runtime import cache_folder
from veridical.runtime.cache import Cache, digest, evict, open_cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file

VALUES = {"logps": torch.arange(6, dtype=torch.float64).view(2, 3), "mask": torch.tensor([True])}


def entry(cache: Cache, kind: str, key: str) -> Path:
    assert cache.folder is not None
    return cache.folder / kind / key[:2] / f"{key}.safetensors"


def test_what_is_kept_comes_back_and_is_mapped(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1e9)
    key = digest("one")
    assert cache.get("kind", key) is None
    big = {**VALUES, "half": torch.randn(1000, 64).bfloat16()}
    cache.put("kind", key, big)
    found = Cache(tmp_path, 1e9).get("kind", key)
    assert found is not None
    assert found.keys() == big.keys()
    for name, tensor in big.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    if Path("/proc/self/maps").exists():
        assert f"{key}.safetensors" in Path("/proc/self/maps").read_text()
    assert cache.keys("kind") == [key]
    cache.forget("kind")
    assert cache.keys("kind") == []


def test_every_flipped_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = digest("one")
    Cache(tmp_path, 1e9).put("kind", key, VALUES)
    path = entry(Cache(tmp_path, 1e9), "kind", key)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(bytes(flipped))
        found = Cache(tmp_path, 1e9).get("kind", key)
        # A space of the header may turn into another; then the content is what it was.
        assert found is None or all(torch.equal(found[n], v) for n, v in VALUES.items())
    capsys.readouterr()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    cache = Cache(tmp_path, 1e9)
    assert cache.get("kind", key) is None
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "checksum" in told
    assert "computed again" in told
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 5, 100])
def test_torn_entries_are_not_used(tmp_path: Path, size: int) -> None:
    key = digest("one")
    cache = Cache(tmp_path, 1e9)
    cache.put("kind", key, VALUES)
    with entry(cache, "kind", key).open("r+b") as file:
        file.truncate(size)
    assert cache.get("kind", key) is None
    cache.put("kind", key, VALUES)
    assert cache.get("kind", key) is not None


def test_an_entry_under_anothers_name_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1e9)
    cache.put("kind", digest("one"), VALUES)
    other = entry(cache, "kind", digest("two"))
    other.parent.mkdir(parents=True, exist_ok=True)
    entry(cache, "kind", digest("one")).rename(other)
    assert cache.get("kind", digest("two")) is None


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    kilobyte = torch.zeros(1000, dtype=torch.uint8)
    writer = Cache(tmp_path, 1e9)
    keys = [digest(number) for number in range(10)]
    for age, key in enumerate(keys):
        writer.put("kind", key, {"x": kilobyte + age})
        os.utime(entry(writer, "kind", key), (1000 + age, 1000 + age))
    size = entry(writer, "kind", keys[0]).stat().st_size
    assert writer.get("kind", keys[0]) is not None  # used now, so no longer the oldest
    # Ten entries; a limit of 8 keeps 90 % of 8 = 7.2, so 7 are left.
    assert evict(tmp_path, 8 * size) == 7 * size
    assert set(writer.keys("kind")) == {keys[0], *keys[4:]}
    assert evict(tmp_path, 8 * size) == 7 * size


def test_the_limit_holds_while_writing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 20_000)
    for number in range(100):
        cache.put("kind", digest(number), {"x": torch.full((1000,), number % 256).byte()})
        total = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
        assert total <= 20_000
    assert cache.get("kind", digest(99)) is not None
    assert cache.get("kind", digest(0)) is None


def test_abandoned_parts_are_swept(tmp_path: Path) -> None:
    old, new = tmp_path / "veridical-old.part", tmp_path / "veridical-new.part"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1000, 1000))
    evict(tmp_path, 1e9)
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_is_told_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(tmp_path, 1e9)
    cache.put("kind", digest("one"), VALUES)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_write", full)
    cache.put("kind", digest("two"), VALUES)
    cache.put("kind", digest("three"), VALUES)
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "No space left" in told
    assert cache.get("kind", digest("one")) is not None


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", failing)
    Cache(tmp_path, 1e9).put("kind", digest("one"), VALUES)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def users_folder(folder: Path) -> dict[Path, bytes]:
    """A model, a half-finished download and records that somebody keeps; all of them old."""
    names = ("model.safetensors", "sub/deep/w.safetensors", "film.part", "records/data.arrow")
    files = {folder / name: name.encode() for name in names}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1000, 1000))
    return files


def test_a_folder_with_anything_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = users_folder(tmp_path)
    with pytest.raises(UserError, match=r"--cache .* is not a cache: it holds .*new or empty"):
        open_cache(str(tmp_path), 1)
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"VERIDICAL_CACHE=.* is not a cache"):
        open_cache(None, 1)
    with pytest.raises(UserError, match="is not a cache"):
        Cache(tmp_path, 10).put("kind", digest("one"), VALUES)
    assert {path: path.read_bytes() for path in files} == files
    assert not (tmp_path / "kind").exists()


def test_what_a_user_puts_into_a_cache_is_never_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 10)
    cache.put("kind", digest("one"), VALUES)
    files = users_folder(tmp_path / "cache")
    for number in range(5):
        cache.put("kind", digest(number), VALUES)  # each is beyond the limit: all of them go
    evict(tmp_path / "cache", 0)
    evict(tmp_path / "cache" / "records", 0, ".arrow")
    assert cache.keys("kind") == []
    assert {path: path.read_bytes() for path in files} == files
    assert open_cache(str(tmp_path / "cache"), 1).folder is not None  # it has the mark


def test_a_cache_of_before_the_mark_is_taken_over(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1e9)
    cache.put("vision/model", digest("one"), VALUES)
    (tmp_path / "evicting.lock").touch()
    (tmp_path / "CACHEDIR.TAG").unlink()
    opened = open_cache(str(tmp_path), 1)
    opened.put("kind", digest("two"), VALUES)
    assert opened.get("vision/model", digest("one")) is not None
    assert (tmp_path / "CACHEDIR.TAG").is_file()


def test_a_folder_that_another_process_marks_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    honest = cache_folder._stranger

    def marked_before(place: Path) -> Path | None:
        (place / cache_folder.MARK).write_text(cache_folder.MARKED)
        return honest(place)

    monkeypatch.setattr(cache_folder, "_stranger", marked_before)
    cache_folder.claim_cache_folder(folder)


def test_another_programs_mark_is_none(tmp_path: Path) -> None:
    (tmp_path / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# pip\n")
    with pytest.raises(UserError, match="is not a cache"):
        open_cache(str(tmp_path), 1)


def test_entries_are_private(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1e9)
    cache.put("kind", digest("one"), VALUES)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert entry(cache, "kind", digest("one")).stat().st_mode & 0o777 == 0o600


def _write_many(folder: str, first: int) -> None:
    cache = Cache(Path(folder), 100_000)
    for number in range(first, first + 60):
        key = digest(number % 80)
        cache.put("kind", key, {"x": torch.full((500,), number % 80).byte()})
        found = cache.get("kind", digest((number * 7) % 80))
        if found is not None and not bool((found["x"] == (number * 7) % 80).all()):
            raise AssertionError("another entry's content")


def test_two_processes_at_once_are_both_right(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(str(tmp_path), n)) for n in (0, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = Cache(tmp_path, 100_000)
    assert cache.keys("kind")
    for key in cache.keys("kind"):
        assert cache.get("kind", key) is not None


def test_a_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(module, "hash_file", counted)
    cache = Cache(tmp_path / "cache", 1e9)
    first = cache.file_hash(file)
    assert Cache(tmp_path / "cache", 1e9).file_hash(file) == first == hash_file(file)
    assert len(read) == 1
    file.write_bytes(b"two")
    os.utime(file, (1000, 1000))  # the file system's clock may not have ticked since
    assert cache.file_hash(file) == hash_file(file) != first
    assert len(read) == 2


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_cache(None, 1).folder is None  # the tests' own setting
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "by-variable"))
    assert open_cache(None, 1).folder == tmp_path / "by-variable"
    assert open_cache(str(tmp_path), 2).limit == 2e9
    assert open_cache("none", 1).folder is None
    monkeypatch.delenv("VERIDICAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "veridical" in str(open_cache(None, 1).folder)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"--cache .* is a file"):
        open_cache(str(file), 1)
    with pytest.raises(UserError, match="--cache-gigabytes"):
        open_cache(str(tmp_path), 0)


def test_digests_tell_lists_apart() -> None:
    seen = {
        digest("a", "b"), digest("ab"), digest(["a", "b"]), digest(["a"], "b"), digest("a", b"b"),
        digest(1), digest(1.0), digest(True), digest("1"), digest(None), digest("None"),
        digest(torch.tensor([1, 2])), digest(torch.tensor([[1, 2]])),
        digest(torch.tensor([1, 2]).int()), digest([1, 2]),
    }  # fmt: skip
    assert len(seen) == 15
    assert digest((1, 2)) == digest([1, 2])


def test_a_disk_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(tmp_path, 1e9)
    cache.put("kind", digest("one"), VALUES)
    full = SimpleNamespace(total=10**12, free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    cache.put("kind", digest("two"), VALUES)
    assert cache.keys("kind") == [digest("one")]
    assert (
        "less than 1 GB of the disk would be left); going on without it" in capsys.readouterr().out
    )
