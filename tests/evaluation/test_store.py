"""The store: whole files, damage, kills, folders of something else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fullgrad.evaluation.store import Content, Store, StoreError, packed, sweep


def test_store_keeps_and_notices_damage(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path / "s", said.append)
    arrays = {
        "a": np.arange(6).reshape(2, 3),
        "r": np.arange(4, dtype=np.uint16)[::2],
        "e": np.zeros((0, 2)),
        "n": np.array(7),
    }
    content = Content({"accuracy": 0.5}, arrays)
    assert store.get("d1") is None
    assert not (tmp_path / "s").exists()  # nothing before the first stage
    store.put("d1", content)
    found = Store(tmp_path / "s").get("d1")
    assert found is not None
    assert dict(found.values) == {"accuracy": 0.5}
    for name, value in arrays.items():
        assert found.arrays[name].dtype == value.dtype
        assert np.array_equal(found.arrays[name], value)
        assert found.arrays[name].shape == value.shape
    assert said == []
    whole = store.path("d1").read_bytes()
    damages = [whole[:k] for k in (0, 10, 40, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        damages.append(bytes(flipped))
    for number, damaged in enumerate(damages, 1):
        store.path("d1").write_bytes(damaged)
        store = Store(tmp_path / "s", said.append)
        assert store.get("d1") is None
        assert store.get("d1") is None  # said once
        assert len(said) == number
        assert said[-1].startswith(f"damaged, to be done again: {store.path('d1')} (")
    store.path("d1").write_bytes(packed(content, "d2"))
    store = Store(tmp_path / "s", said.append)
    assert store.get("d1") is None
    assert "it is of another stage, d2" in said[-1]


def test_stores_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file is not a folder"):
        Store(tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(StoreError, match="holds other files and no stages"):
        Store(tmp_path / "other")
    Store(tmp_path / "s").put("d", Content({}))
    (tmp_path / "s" / "store.json").write_text('{"format": 99}')
    with pytest.raises(
        StoreError, match="holds stages in format 99, this is 2; give another folder"
    ):
        Store(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        Store(tmp_path / "s")
    store = Store(tmp_path / "full")
    store.put("before", Content({}))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write to .*full: No space left on device"):
        store.put("d", Content({}))
    assert {p.name for p in store.folder.iterdir()} == {"store.json", "before.stage"}
    with pytest.raises(StoreError, match=r"cannot write to .*file/below: Not a directory"):
        Store(tmp_path / "file" / "below").put("d", Content({}))


def test_a_store_is_swept_of_what_dead_processes_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    dead, alive = tmp_path / ".a.stage.999999999.tmp", tmp_path / f".b.stage.{os.getppid()}.tmp"
    dead.touch()
    alive.touch()
    sweep(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_what_a_kill_leaves_beside_finished_stages_goes(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path / "s", said.append)
    store.mend()  # nothing is there
    assert not store.folder.exists()
    store.put("done", Content({}))
    for name in ("done", "begun", "damaged"):
        store.put_partial(name, name, Content({"step": 1}))
    store.path("damaged").write_bytes(b"")
    (store.folder / "bad.group").write_bytes(b"no group")
    store.mend()
    names = {p.name for p in store.folder.glob("*.partial")}
    assert names == {"begun.partial", "damaged.partial"}
    assert not list(store.folder.glob("*.group"))
    assert said[0] == (
        f"damaged, its stages are done again: {store.folder / 'bad.group'} (it does not begin as "
        "a stage's file)"
    )
    arrays = {"0.weight": np.arange(3), "a/b": np.zeros((0, 2))}
    store.put_together({"x": Content({"n": 1}, arrays), "x1": Content({"n": 2})})
    for digest, values, names in (("x", {"n": 1}, set(arrays)), ("x1", {"n": 2}, set())):
        found = store.get(digest)
        assert found is not None
        assert (dict(found.values), set(found.arrays)) == (values, names)
    assert not list(store.folder.glob("*.group"))
