"""Several people at once: nobody gets another's result, nobody waits for what nobody wants."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from anyio import fail_after
from torch import nn

pytest.importorskip("starlette")

from app_server import (
    BLACK,
    CAPTUM,
    PHOTOGRAPH,
    Call,
    Running,
    encoded,
    eventually,
    gates,
    lines,
    pixels,
    running,
    strict,
)
from fullgrad.app.memory import memory_release
from fullgrad.app.pool import Done, Failed, Job, Pool, Progress, Steps, WorkerModels
from fullgrad.app.refusal import Refusal

pytestmark = CAPTUM
REQUESTS = (
    ("fullgrad", {}),
    ("fullgrad", {"psi": "signed"}),
    ("smooth_fullgrad", {"samples": 2, "seed": 1}),
    ("simple_fullgrad", {}),
    ("integrated_gradients", {"n_steps": 3}),
    ("smoothgrad", {"samples": 3}),
    ("guided_backprop", {}),
    ("deeplift", {}),
    ("grad_cam", {}),
    ("grad_cam", {"layer": "stem.2"}),
    ("input_x_gradient", {}),
    ("random", {"seed": 7}),
)


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, "make_gated", workers=1, most=3, uploads=6) as found:
        gates().GATE.clear()
        yield found


def call(server: Running, content: bytes, path: str = "/api/explain", **query: Any) -> Call:
    return Call(server.app, path, urlencode(query)).body(content)


def answer(found: Call) -> Any:
    last = lines(found.content)[-1]
    assert "result" in last, last
    return {**last["result"], "seconds": 0}


def test_together_they_get_what_each_gets_alone(tmp_path: Path) -> None:
    asked = [
        (encoded(pixels(seed)), {"method": m, "options": json.dumps(o), "target": (i + seed) % 5})
        for seed in (1, 2)
        for i, (m, o) in enumerate(REQUESTS)
    ]

    async def alone(server: Running) -> list[Any]:
        return [answer(await call(server, content, **q).ended()) for content, q in asked]

    async def together(server: Running) -> list[Any]:
        calls = [call(server, content, **q) for content, q in asked]
        return [answer(await c.ended(60)) for c in calls]

    with running(tmp_path, workers=3) as server:
        expected = asyncio.run(alone(server))
        assert len({e["map"]["png"] for e in expected}) > len(asked) - 3
        before = {k: v.clone() for k, v in server.models[0].module.state_dict().items()}
        for _ in range(2):
            assert asyncio.run(together(server)) == expected
        for key, value in server.models[0].module.state_dict().items():
            assert torch.equal(value, before[key])


def test_workers_share_no_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[WorkerModels] = []
    monkeypatch.setattr(
        "app_server.WorkerModels", lambda own: made.append(WorkerModels(own)) or made[-1]
    )
    with running(tmp_path, "make_net", "make_gated", workers=2):
        first, second = ([m.module for m in worker.models] for worker in made)
        for a, b in zip(first, second, strict=True):
            assert a is not b
            ours, theirs = ({p.data_ptr() for p in m.parameters()} for m in (a, b))
            assert not ours & theirs


def test_waiting_requests_are_told_their_place(gated: Running) -> None:
    async def go() -> None:
        first = call(gated, BLACK)
        await eventually(lambda: gated.pool.running == 1)
        second = call(gated, PHOTOGRAPH)
        await second.until(lambda c: len(c.sent) == 2)
        third = call(gated, PHOTOGRAPH)
        await third.until(lambda c: len(c.sent) == 2)
        assert strict(second.sent[1]["body"])["progress"] == {
            "stage": "waiting",
            "text": "next, as soon as a worker is free",
        }
        assert strict(third.sent[1]["body"])["progress"] == {
            "stage": "waiting",
            "text": "1 request to be begun before this one",
        }
        second.hang_up()
        await second.ended()
        await third.until(lambda c: len(c.sent) == 3)
        assert strict(third.sent[2]["body"])["progress"]["text"].startswith("next")
        gates().GATE.set()
        assert answer(await third.ended())["name"] == "photograph"
        assert answer(await first.ended())["method"] == "combined_fullgrad"

    asyncio.run(go())


def test_a_request_whose_client_has_gone_leaves_the_queue_at_once(gated: Running) -> None:
    async def go() -> None:
        first = call(gated, BLACK)
        await eventually(lambda: gated.pool.running == 1)
        for path in ("/api/explain", "/api/download/picture"):
            gone = call(gated, PHOTOGRAPH, path)
            await eventually(lambda: gated.pool.waiting == 1)
            gone.hang_up()
            await gone.ended()
            assert gated.pool.waiting == 0
            assert not any(m.get("more_body") is False for m in gone.sent)
        gates().GATE.set()
        answer(await first.ended())

    asyncio.run(go())


def test_an_abandoned_request_stops_at_its_next_step(gated: Running) -> None:
    async def go() -> None:
        first = call(gated, BLACK, method="smooth_fullgrad", options='{"samples":100}')
        await eventually(lambda: gated.pool.running == 1)
        first.hang_up()
        await first.ended()
        while gates().ENTERED.acquire(blocking=False):
            pass
        second = call(gated, PHOTOGRAPH, parts="map")
        gates().GATE.set()
        answer(await second.ended())
        assert not gates().ENTERED.acquire(blocking=False)  # the first made no further pass

    asyncio.run(go())


def test_an_abandoned_run_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    methods = ("smooth_fullgrad", "integrated_gradients", "smoothgrad", "deeplift", "grad_cam")

    async def go(server: Running) -> None:
        expected = answer(await call(server, PHOTOGRAPH).ended())
        for method in methods:
            for passes in (1, 2, 3) if method == "grad_cam" else (1, 2, 4):
                gone = call(server, PHOTOGRAPH, method=method, parts="map")
                seen = 0

                def count(self: Steps, limit: int = passes) -> None:
                    nonlocal seen
                    seen += 1
                    if seen == limit:
                        self.abandon()
                    forward(self)

                forward = Steps.forward
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(Steps, "forward", count)
                    await eventually(
                        lambda: server.pool.running + server.pool.waiting == 0 and seen
                    )
                gone.hang_up()
                await gone.ended()
                assert seen == passes
            assert answer(await call(server, PHOTOGRAPH).ended()) == expected
        module = server.models[0].module
        assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())
        assert [len(m._forward_pre_hooks) for m in module.modules()][1:].count(0) > 5

    with running(tmp_path, workers=1) as server:
        asyncio.run(go(server))


def test_a_new_request_does_not_wait_for_an_old_one(tmp_path: Path) -> None:
    async def go(server: Running) -> None:
        old = call(server, BLACK)
        await eventually(lambda: server.pool.running == 1)
        old.hang_up()
        await old.ended()
        for _ in range(3):
            answer(await call(server, PHOTOGRAPH).ended())  # while the old one still stands there
        assert server.pool.running == 1

    with running(tmp_path, "make_gated", workers=2) as server:
        gates().GATE.clear()
        asyncio.run(go(server))


def test_a_full_queue_says_so(gated: Running) -> None:
    async def go() -> None:
        calls = [call(gated, BLACK)]
        await eventually(lambda: gated.pool.running == 1)
        calls += [call(gated, PHOTOGRAPH) for _ in range(3)]
        await eventually(lambda: gated.pool.waiting == 3)
        refused = await call(gated, PHOTOGRAPH).ended()
        assert refused.status == 503
        assert strict(refused.content) == {
            "error": "3 requests are waiting already. Try again in a moment.",
            "kind": "busy",
        }
        sending = [Call(gated.app, "/api/explain").body(b"x", more=True) for _ in range(2)]
        await asyncio.sleep(0.05)
        refused = await call(gated, PHOTOGRAPH).ended()
        assert refused.status == 503
        assert strict(refused.content)["error"].startswith("6 requests are under way already.")
        for s in sending:
            s.hang_up()
            await s.ended()
            assert s.sent == []
        gates().GATE.set()
        for c in calls:
            answer(await c.ended())
        answer(await call(gated, PHOTOGRAPH).ended())  # all places are free again

    asyncio.run(go())


def test_closing_tells_those_that_wait(tmp_path: Path) -> None:
    async def go(server: Running) -> None:
        first = call(server, BLACK)
        await eventually(lambda: server.pool.running == 1)
        second = call(server, PHOTOGRAPH)
        third = call(server, PHOTOGRAPH, "/api/download/array")
        await eventually(lambda: server.pool.waiting == 2)
        assert not server.pool.close()
        last = lines((await second.ended()).content)[-1]
        assert last == {"error": "The viewer is stopping.", "kind": "busy"}
        assert (await third.ended()).status == 503
        assert (await call(server, PHOTOGRAPH).ended()).status == 503
        first.hang_up()
        await first.ended()

    with running(tmp_path, "make_gated", workers=1) as server:
        gates().GATE.clear()
        asyncio.run(go(server))
        gates().GATE.set()


def test_a_client_that_hangs_up_while_sending_is_forgotten(tmp_path: Path) -> None:
    async def go(server: Running) -> None:
        gone = Call(server.app, "/api/explain").body(PHOTOGRAPH[:50], more=True)
        gone.hang_up()
        await gone.ended()
        assert gone.sent == []
        answer(await call(server, PHOTOGRAPH).ended())

    with running(tmp_path, workers=1) as server:
        asyncio.run(go(server))


def test_hanging_up_in_the_middle_of_a_line_ends_the_request(tmp_path: Path) -> None:
    async def go(server: Running) -> None:
        for wait in range(12):
            gone = call(server, PHOTOGRAPH)
            await gone.until(lambda c: len(c.sent) >= 2)
            for _ in range(wait % 4):
                await asyncio.sleep(0)
            gone.hang_up()
            await gone.ended(5)

    with running(tmp_path, workers=1) as server:
        asyncio.run(go(server))


def test_a_cancelled_wait_ends_even_in_the_moment_of_success() -> None:
    async def go() -> None:
        inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def outer() -> None:
            with fail_after(5):
                await inner
            await asyncio.sleep(60)

        task = asyncio.ensure_future(outer())
        await asyncio.sleep(0.01)
        inner.set_result(None)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=2)
        assert task.cancelled()

    asyncio.run(go())


def test_freed_memory_is_given_back() -> None:
    """Blocks between which small ones stay are kept by the C library unless it is told."""
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("another C library")
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]

    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    size, count = 100_000, 1500  # below the size that is mapped and unmapped by itself
    blocks, kept = [], []
    for _ in range(count):
        blocks.append(libc.malloc(size))
        ctypes.memset(blocks[-1], 1, size)
        kept.append(libc.malloc(5000))
    for block in blocks:
        libc.free(block)
    full = resident()
    memory_release()()
    assert resident() < full - size * count // 2
    for block in kept:
        libc.free(block)


def test_what_refers_to_itself_is_collected_after_each_request() -> None:
    class Node:
        pass

    found: list[weakref.ref[Node]] = []

    def leave(worker: WorkerModels, steps: Steps) -> None:
        node = Node()
        node.own = node  # type: ignore[attr-defined]
        found.append(weakref.ref(node))

    pool = Pool([WorkerModels([])], 4, after=memory_release())
    gc.disable()
    try:
        told(leave, pool)
        assert pool.close(10)
        assert found[0]() is None
    finally:
        gc.enable()


# The pool by itself


def told(run: Any, pool: Pool) -> list[Any]:
    events: list[Any] = []
    ended = threading.Event()

    def tell(event: Any) -> None:
        events.append(event)
        if isinstance(event, (Done, Failed)):
            ended.set()

    pool.submit(Job(run, tell))
    assert ended.wait(10)
    return events


def test_a_worker_outlives_every_error() -> None:
    pool = Pool([WorkerModels([])], 4)
    for raised in (ValueError("a"), SystemExit(3), KeyboardInterrupt()):

        def fail(worker: WorkerModels, steps: Steps, error: BaseException = raised) -> None:
            raise error

        assert told(fail, pool)[-1].error is raised
    assert told(lambda worker, steps: 5, pool)[-1] == Done(5)
    assert pool.close(10)
    with pytest.raises(Refusal, match="The viewer is stopping"):
        pool.submit(Job(lambda worker, steps: 5, lambda event: None))


def test_steps_count_passes_of_the_workers_models() -> None:
    events: list[Any] = []
    steps = Steps(events.append)
    steps._told = -1e9

    class Own:
        module = nn.Linear(2, 2)

    worker = WorkerModels([Own()])  # type: ignore[list-item]
    worker.count_for(steps)
    steps.stage("explaining", "x", 2)
    for _ in range(3):
        steps._told = -1e9
        worker.models[0].module(torch.zeros(1, 2))
    worker.count_for(None)
    worker.models[0].module(torch.zeros(1, 2))
    assert [e.done for e in events] == [0, 0, 1, 2]
    assert events[0] == Progress("explaining", "x", 0, 2)
