"""``fullgrad app``: the viewer in the browser."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fullgrad import methods
from fullgrad._files import printable
from fullgrad._optional import require
from fullgrad._user_code import names_file
from fullgrad.app.guard import is_loopback
from fullgrad.app.memory import frozen_collector, memory_release
from fullgrad.app.models import Served, copies, serve
from fullgrad.app.pool import Pool, WorkerModels
from fullgrad.app.refusal import hide
from fullgrad.app.server import build
from fullgrad.app.stores import StorePages
from fullgrad.app.upload import Limits, pillow_limit
from fullgrad.cli import UsageError
from fullgrad.cli.arguments import add_stated_arguments, class_names, note_about, positive
from fullgrad.datasets import open as open_store
from fullgrad.datasets.analysis.pictures import Pictures
from fullgrad.methods.registry import add as add_method
from fullgrad.vision.classification import number_of_classes
from fullgrad.vision.models import DEFAULT_MODEL, from_options, load_model

_DESCRIPTION = """\
Opens a viewer in the browser: drop a photograph, see which pixels and which layers a class's logit
comes from. Photographs are computed with and forgotten; nothing of them is kept or written.

Models are chosen here, never in the browser. It answers this machine alone unless --host says
otherwise. Ctrl-C ends it.
"""
_EPILOG = """\
examples:
  fullgrad app --open
  fullgrad app --model torchvision:resnet50 timm:convnext_tiny
  fullgrad app --store maps --open
  fullgrad app --methods mine.py:size --open
  fullgrad app --model net.py:make_model --weights best.pth --labels names.txt --device cuda

--weights and --labels are given once for each model, in the models' order; '-' stands for a
model's own. exit code: 0 after Ctrl-C; 2 mistake in the arguments, nothing served.
"""
_STOPPING = 1.0  # seconds for what is under way
_CONNECTIONS = 512
_WAITING, _UPLOADS = 16, 32  # for each worker: in the queue; those still being sent included
_LIBRARIES = ("PIL", "captum", "torch", "matplotlib")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad app``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add = parser.add_argument
    limits = Limits()
    text = f"models, as 'fullgrad explain' names them (default: {DEFAULT_MODEL})"
    add("--model", nargs="+", action="extend", metavar="MODEL", help=text)
    text = "show a store of maps ('fullgrad map'), without a model unless --model is given"
    add("--store", metavar="STORE", help=text)
    text = "for --store: where its data are now, if they were moved"
    add("--data", metavar="DATA", help=text)
    text = "for each model: checkpoint, 'none', a name, or '-' for its own"
    add("--weights", nargs="+", action="extend", metavar="WEIGHTS", help=text)
    text = "class names of each model: file, 'imagenet', or '-' for its own"
    add("--labels", nargs="+", action="extend", metavar="FILE", help=text)
    add("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    add_stated_arguments(parser)
    text = "components of a module path that make a stage (default: as many as give a few stages)"
    add("--depth", type=positive, metavar="N", help=text)
    text = "address to answer at (default: %(default)s, this machine alone)"
    add("--host", default="127.0.0.1", help=text)
    text = "port, 0 for any that is free (default: %(default)s)"
    add("--port", type=_port, default=7860, help=text)
    text = "requests computed at a time, each with its own copy of the models (default: 2)"
    add("--workers", type=positive, default=2, metavar="N", help=text)
    text = "largest upload in bytes (default: %(default)s)"
    add("--max-bytes", type=positive, default=limits.bytes, metavar="N", help=text)
    text = "largest width times height of an upload (default: %(default)s)"
    add("--max-pixels", type=positive, default=limits.pixels, metavar="N", help=text)
    text = "own methods, beside the library's: FILE.py:FUNCTION, which is executed"
    add("--methods", nargs="+", action="extend", default=[], metavar="METHOD", help=text)
    add("--open", action="store_true", help="open the browser")


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was served.
    """
    quiet()
    _check_pixels(args.max_pixels)
    _check_store(args)
    hide(_hidden(args))
    with _own_methods(args.methods):
        return _served(args)


@contextlib.contextmanager
def _own_methods(given: Sequence[str]) -> Iterator[None]:
    """Register methods of files by the files' names, without folders, for as long as is served.

    Raises:
        UsageError: what names no file, or a name that is taken.
        MethodError: the file is at fault.
    """
    own: list[str] = []
    try:
        for spec in given:
            if not names_file(spec):
                raise UsageError(
                    f"--methods takes own ones, FILE.py:FUNCTION, not {spec!r}: the viewer offers "
                    "all of the library's"
                )
            method = methods.get(spec)
            name = f"{Path(spec.rpartition(':')[0]).name}:{spec.rpartition(':')[2]}"
            try:
                add_method(replace(method, name=name))
            except ValueError as error:
                raise UsageError(f"--methods {spec}: {error.args[0].partition(';')[0]}") from error
            own.append(name)
        yield
    finally:
        for name in own:
            methods.unregister(name)


def _served(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C; the exit code."""
    listening = listen(args.host, args.port)  # first: a port in use is reported before a long load
    try:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.workers))
        store = _store_pages(args)
        models = load(args) if args.model or store is None else []
        workers = [WorkerModels(own) for own in copies(models, args.workers)]
        pool = Pool(workers, most=args.workers * _WAITING, after=memory_release())
        limits = Limits(args.max_bytes, args.max_pixels)
        app = build(
            models,
            pool,
            limits,
            loopback=is_loopback(args.host),
            uploads=args.workers * _UPLOADS,
            depth=args.depth,
            store=store,
        )
        if not is_loopback(args.host):
            print(
                f"fullgrad: note: everyone who can reach {args.host} over the network can use "
                "this viewer and this machine's computing time; it asks for no password and does "
                "not encrypt. Leave --host out to keep it to this machine.",
                file=sys.stderr,
                flush=True,
            )
        with frozen_collector():
            url = _url(args.host, listening) + ("store" if store is not None else "")
            _serve(app, listening, url, args.open)
            ended = pool.close(_STOPPING)
    finally:
        listening.close()
    sys.stdout.flush()
    if not ended:  # a worker is deep in a computation, and Python would wait for no thread kindly
        os._exit(0)
    return 0


def _check_store(args: argparse.Namespace) -> None:
    if args.data is not None and args.store is None:
        raise UsageError("--data belongs to a store: name it with --store, or leave --data out")
    of_model = args.weights or args.labels or args.methods
    if args.store is not None and not args.model and of_model:
        raise UsageError(
            "--weights, --labels and --methods belong to a model: name it with --model as well"
        )


def _store_pages(args: argparse.Namespace) -> StorePages | None:
    """The pages of the store that is to be shown; its index is read, so that errors come now."""
    if args.store is None:
        return None
    store = open_store(args.store)
    print(f"fullgrad: reading the index of {printable(args.store)}", file=sys.stderr, flush=True)
    _ = store.index
    pictures = Pictures.of(store, args.data)
    if pictures.why:
        print(f"fullgrad: note: {pictures.why}", file=sys.stderr, flush=True)
    return StorePages(pictures)


def _check_pixels(count: int) -> None:
    most = pillow_limit()
    if most is not None and count > most:
        raise UsageError(
            f"--max-pixels {count} is more than Pillow opens: give at most {most} pixels"
        )


def _hidden(args: argparse.Namespace) -> list[Path]:
    """What no message may tell: where the files of the command line are, and where people live."""
    specs = [*(args.model or ()), *args.methods]
    given = [spec.rpartition(":")[0] for spec in specs if ".py:" in spec]
    given += [text for text in (args.store, args.data) if text is not None]
    given += [text for name in ("weights", "labels") for text in getattr(args, name) or ()]
    files = [Path(text) for text in given if len(Path(text).parts) > 1]
    files += [Path(text).resolve() for text in given if Path(text).exists()]
    return [*files, *(file.parent for file in files), Path.cwd(), Path(os.path.expanduser("~"))]


def quiet() -> None:
    """Keep the libraries' warnings off the terminal: responses say what is wrong."""
    for module in _LIBRARIES:
        warnings.filterwarnings("ignore", module=module)


def load(args: argparse.Namespace) -> list[Served]:
    """Load the models of the command line.

    Raises:
        UsageError: weights or labels for another number of models.
        ModelLoadError: a model cannot be loaded.
    """
    specs = args.model or [DEFAULT_MODEL]
    weights, labels = (_each(args, name, len(specs)) for name in ("weights", "labels"))
    loaded = []
    for spec, own_weights, own_labels in zip(specs, weights, labels, strict=True):
        print(f"fullgrad: loading {spec}", file=sys.stderr, flush=True)
        model = load_model(spec, own_weights, args.device, from_options(vars(args)))
        note_about(model)
        loaded.append((model, class_names(own_labels, model, number_of_classes(model))))
    print("fullgrad: trying which methods apply", file=sys.stderr, flush=True)
    return [serve(model, names) for model, names in loaded]


def _each(args: argparse.Namespace, name: str, count: int) -> list[str | None]:
    given: list[str] | None = getattr(args, name)
    if given is None:
        return [None] * count
    if len(given) != count:
        raise UsageError(
            f"--{name} is given for {len(given)} models, but there are {count}: give it once for "
            "each, '-' for a model's own"
        )
    return [None if g == "-" else g for g in given]


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that is bound to the address.

    Raises:
        UsageError: the address is not available.
    """
    if not host:
        raise UsageError("--host is empty: give an address, or leave it out for this machine alone")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f"--host {host!r} is not an address of this machine: {error.strerror}"
        ) from error
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        raise UsageError(
            f"cannot answer at {host} port {port}: {error.strerror}. Another program, or another "
            "viewer, may use it: give --port another number, or 0 for any that is free"
        ) from error
    return made


def _url(host: str, listening: socket.socket) -> str:
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"


def _serve(app: Any, listening: socket.socket, url: str, browser: bool) -> None:
    """Serve until a signal comes."""
    uvicorn = require("uvicorn", "app")
    base: Any = uvicorn.Server

    class Server(base):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets=sockets)
            print(f"fullgrad app: open {url} (Ctrl-C ends it)", flush=True)
            if browser:
                import webbrowser

                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=128,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=1,
        limit_concurrency=_CONNECTIONS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # which it raises once more when it has stopped
        Server(config).run(sockets=[listening])
