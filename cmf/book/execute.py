"""Running notebooks: one kernel each, cell by cell, with progress, ended cleanly by Ctrl-C or SIGTERM."""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmf.book import plan, rests
from cmf.book.plan import Job

BEAT_TTY, BEAT_LOG = 5.0, 30.0  # seconds between signs of life, on a terminal and in a log


class Screen:
    """What each notebook is at: on a terminal all of it in one line that is rewritten in place, else a line each."""

    def __init__(self):
        self.inplace = sys.stdout.isatty()
        self.beat = BEAT_TTY if self.inplace else BEAT_LOG
        self.now: dict[str, str] = {}

    def say(self, name: str, text: str, keep: bool = True) -> None:
        """Show a line of a notebook; on a terminal one with keep=False is overwritten by the next."""
        if not self.inplace:
            print(text, flush=True)
            return
        self.now.pop(name, None)
        if keep:
            print(f"\r\x1b[K{text}")
        else:
            self.now[name] = text
        room = (shutil.get_terminal_size().columns - 1) // max(1, len(self.now))
        line = "".join(f"{self.now[one]:<{room}.{room - 1}}" for one in sorted(self.now))
        print(f"\r\x1b[K{line}", end="", flush=True)

    def close(self) -> None:
        """End a line that was to be overwritten."""
        if self.now:
            print(flush=True)
            self.now.clear()


def prepare(job: Job):
    """The notebook to execute: source cells with stable ids, the given parameters in a cell of their own; of figures
    alone the statements that they rest on."""
    import jupytext
    from papermill.parameterize import parameterize_notebook

    book = jupytext.read(job.source)
    book.metadata.get("jupytext", {}).get("text_representation", {}).pop("jupytext_version", None)
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata["language_info"] = {"name": "python"}
    if job.given:
        book.metadata["papermill"] = {}
        for cell in book.cells:
            cell.metadata.setdefault("tags", [])
        book = parameterize_notebook(book, dict(job.given), kernel_name="python3", language="python")
        del book.metadata["papermill"]
    if job.alone:
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        given = [k for k, cell in enumerate(code) if "parameters" in " ".join(cell.metadata.get("tags", []))]
        for cell, text in zip(code, rests.kept([cell.source for cell in code], job.figures, given), strict=True):
            cell.source = text
        book.cells = [cell for cell in book.cells if cell.source]
    for k, cell in enumerate(book.cells):
        cell["id"] = f"{job.name[:40]}-{k:03d}"
    return book


def environment(job: Job, now: Mapping) -> dict[str, str]:
    """What the kernel finds in its environment beside the caller's. The number of threads is left alone: it
    changes last digits, so it must not depend on the number of jobs. Threads that wait give way to other notebooks."""
    more = {
        "CMF_ROOT": job.root, "CMF_NOTEBOOK": job.name, "CMF_PROFILE": job.profile, "CMF_FIGURES": job.staging,
        "CMF_PARAMETERS": json.dumps(job.values), "CMF_INPUTS": json.dumps(now["inputs"]),
        "CMF_STARTED": time.time(), "CMF_PROGRESS": job.build / f"{job.label}.progress",
        "SOURCE_DATE_EPOCH": 0, "PYTHONHASHSEED": 0,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "TQDM_DISABLE": 1,
        "HF_HUB_DISABLE_PROGRESS_BARS": 1, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "IPYTHONDIR": job.root / "build" / "ipython",
    }
    if job.alone:
        more["CMF_ALONE"] = 1
    if os.environ.get("CMF_DATA"):
        more["CMF_DATA"] = Path(os.environ["CMF_DATA"]).resolve()
    return {**os.environ, **{name: str(value) for name, value in more.items()}}


def heading(cells: Sequence, k: int) -> str:
    """What cell k is about: the comment on its first line, else the last markdown heading above it."""
    first = cells[k].source.split("\n", 1)[0]
    if first.startswith("# "):
        return first[2:].strip()
    for cell in reversed(cells[:k]):
        found = re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        if found:
            return found[-1].strip()
    return ""


async def run(job: Job, screen: Screen) -> dict:
    """Execute one notebook into build/, publish its figures when all of it has passed.

    Returns:
        A row of the closing table: notebook, state, seconds, figures, note.
    """
    began, now = time.monotonic(), plan.facts(job)
    part, failed = job.build / f"{job.label}.part.ipynb", job.build / f"{job.label}.failed.ipynb"
    shutil.rmtree(job.staging, ignore_errors=True)
    job.staging.mkdir(parents=True)
    failed.unlink(missing_ok=True)
    at = {"k": 0, "what": "starting a kernel"}
    pulse = asyncio.create_task(_pulse(job, screen, at, began))
    try:
        await _cells(job, now, part, screen, at, began)
        os.replace(part, job.executed)
        figures = plan.publish(job, now, time.monotonic() - began)
        note, state = "", "drawn"
    except Exception as error:
        figures, state = [], "failed"
        note = f"cell {at['k']} ({at['what']}): {_words(error)}"
        if part.is_file():
            os.replace(part, failed)
            note += f"\n    see {failed.relative_to(job.root)}"
    finally:
        pulse.cancel()
        (job.build / f"{job.label}.progress").unlink(missing_ok=True)
        shutil.rmtree(job.staging, ignore_errors=True)
    seconds = time.monotonic() - began
    screen.say(job.name, f"{job.name}  {state}  {_clock(seconds)}" + (f"  {note}" if note else ""))
    return _row(job, state, seconds, figures, note)


async def run_all(chosen: Sequence[Job], screen: Screen, jobs: int = 1, force: bool = False) -> list[dict]:
    """Run what is out of date, at most `jobs` at once, past failures; rows of the closing table, in order.

    Of several at once those with the most cells come first. Those that read what others draw, or show how long things
    take (TIMINGS), come after the others, one by one.
    """
    gate, tasks = asyncio.Semaphore(jobs), []
    late = [bool(plan.declared(job.source, "TIMINGS")) or plan.waits(job) for job in chosen]

    async def one(k: int, job: Job) -> dict:
        if job.skip:
            return _row(job, "skipped", 0, [], job.skip)
        if others := [task for j, task in enumerate(tasks) if late[k] and j != k and (j < k or not late[j])]:
            await asyncio.wait(others)
        async with gate:
            if not force and not plan.stale(job, plan.facts(job)):
                return _row(job, "up to date", 0, job.figures, "")
            return await run(job, screen)

    cells = [0 if jobs == 1 else job.source.read_text(encoding="utf-8").count("\n# %%") for job in chosen]
    started = {k: asyncio.create_task(one(k, chosen[k])) for k in sorted(range(len(chosen)), key=lambda k: -cells[k])}
    tasks += [started[k] for k in range(len(chosen))]
    try:
        return list(await asyncio.gather(*tasks))
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _cells(job: Job, now: Mapping, part: Path, screen: Screen, at: dict,
                 began: float) -> None:
    import nbformat
    import zmq
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from nbclient import NotebookClient

    class OwnInterpreter(KernelSpecManager):
        """Whatever kernels are installed, the notebook runs on this interpreter."""

        def get_kernel_spec(self, kernel_name):
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python",
                              metadata={"supported_encryption": "curve"})

    book = prepare(job)
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=OwnInterpreter(),
                                 transport_encryption="auto" if zmq.has("curve") else "disabled")
    client = NotebookClient(book, km=manager, timeout=None, record_timing=False)
    try:
        await manager.start_kernel(cwd=str(job.root), env=environment(job, now),
                                   extra_arguments=["--HistoryManager.hist_file=:memory:"])
        client.kc = manager.client()
        client.kc.start_channels()
        await client.kc.wait_for_ready(timeout=120)
        code = [k for k, cell in enumerate(book.cells) if cell.cell_type == "code"]
        for count, k in enumerate(code, 1):
            at |= {"k": count, "n": len(code), "what": heading(book.cells, k)}
            screen.say(job.name, _line(job, at, began), keep=False)
            try:
                await client.async_execute_cell(book.cells[k], k, execution_count=count)
            finally:
                _write(book, part, nbformat)
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


async def _pulse(job: Job, screen: Screen, at: dict, began: float) -> None:
    """Repeat the present cell's line with the elapsed time and the last word of `runs.progress`."""
    while True:
        await asyncio.sleep(screen.beat)
        word = ""
        path = job.build / f"{job.label}.progress"
        if path.is_file():
            word = path.read_text(encoding="utf-8", errors="replace")
        screen.say(job.name, _line(job, at, began) + (f"  {word}" if word else "  ..."), keep=False)


def _line(job: Job, at: Mapping, began: float) -> str:
    of = f"cell {at['k']}/{at['n']}" if at["k"] else "        "
    return f"{job.name}  {of}  {_clock(time.monotonic() - began)}  {at['what']}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _write(book, part: Path, nbformat) -> None:
    aside = part.with_name(part.name + ".part")
    nbformat.write(book, aside)
    os.replace(aside, part)


def _words(error: Exception) -> str:
    """The error in one line: for a cell its own name and message."""
    name = getattr(error, "ename", None)
    text = f"{name}: {error.evalue}" if name else f"{type(error).__name__}: {error}"
    return text.strip().split("\n", 1)[0]


def _row(job: Job, state: str, seconds: float, figures: Sequence[str], note: str) -> dict:
    return dict(notebook=job.name, state=state, seconds=seconds, figures=list(figures), note=note)
