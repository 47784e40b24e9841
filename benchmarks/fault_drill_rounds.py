"""The faults of fault_drill.py: when each comes, what it does, and what the training must make of it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import safetensors
import safetensors.torch
import torch
from fault_drill_rank import RANKS
from fault_drill_starts import POLL_SECONDS, SAVE_STEPS, Failure, Missed, Run, Start, Trainings, suspended

from nlp_adan.errors import EXIT_CODE
from nlp_adan.training.checkpoint.manifest import MANIFEST, Manifest
from nlp_adan.training.checkpoint.run_checkpoints import checkpoints_of, newest_good
from nlp_adan.training.signals import RESUME_EXIT_CODE

ALL_RANKS = tuple(range(RANKS))
# After its step a fault waits up to so long: some steps, or within a save that has begun.
STEP_DELAY_SECONDS, SAVE_DELAY_SECONDS = 0.1, 0.02
ALONE_SECONDS = 60.0  # a rank without the other has ended by then, if it does by itself
MOST_FULL_SAVES = 3  # saves one after the other that find no space
RESUME = ("--resume", "auto")


@dataclass(frozen=True)
class Plan:
    """What is drawn of a round before it begins.

    at_step: the fault comes after this step is in the log; 0: as soon as the start has the folder for itself.
    in_save: it waits for a save to begin. delay_seconds: and then so long.
    ranks: kill: those that are killed, all of them together with their launcher; term: those that get the signal;
    stale_lock: those that outlive their launcher. goes_on: whether these go on when the lock has been tried.
    saves: full_disk: how many find no space. chance: seed of which file is damaged, and where.
    """

    fault: str
    stage: int
    at_step: int = 0
    in_save: bool = False
    delay_seconds: float = 0.0
    ranks: tuple[int, ...] = ALL_RANKS
    goes_on: bool = False
    saves: int = 1
    chance: int = 0


@dataclass(frozen=True)
class Injected:
    """A fault that has come.

    what: it was, in words; step: the last of the log at that moment; in_save: whether a checkpoint was being written.
    told: regular expressions for what the next start (full_disk: the start itself) must say.
    """

    what: str
    step: int
    in_save: bool = False
    told: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What came of a round. lost_steps: those that were trained again; wrong: what was not as it must be, or ""."""

    number: int
    fault: str
    stage: int
    what: str = ""
    in_save: bool = False
    survived: bool = False
    bit_equal: bool = False
    lost_steps: int | None = None
    seconds: float = 0.0
    wrong: str = ""


def draw(fault: str, stage: int, steps: int, in_save: bool, chance: random.Random) -> Plan:
    """The plan of a round of a run of so many steps.

    in_save: whether a kill is aimed at a save.
    """
    # Damage needs a checkpoint; a signal and an orphan need a process. A kill may come when the last step is done.
    first, last = {"flip": (2 * SAVE_STEPS, steps - 2), "truncate": (2 * SAVE_STEPS, steps - 2),
                   "stale_lock": (1, steps - 2), "term": (1, steps - 2)}.get(fault, (0, steps))  # fmt: skip
    saves = chance.randint(1, MOST_FULL_SAVES)
    if fault == "full_disk":
        first_save = chance.randint(1, steps // SAVE_STEPS - saves - 1)
        return Plan(fault, stage, first_save * SAVE_STEPS, saves=saves, chance=chance.getrandbits(32))
    in_save = in_save and fault == "kill"
    alone = chance.randrange(RANKS)
    return Plan(
        fault,
        stage,
        at_step=chance.randint(first, last - 2 * SAVE_STEPS if in_save else last),
        in_save=in_save,
        delay_seconds=chance.uniform(0, SAVE_DELAY_SECONDS if in_save else STEP_DELAY_SECONDS),
        ranks=(alone,) if fault in ("kill", "term", "stale_lock") and chance.random() < 0.5 else ALL_RANKS,
        goes_on=chance.random() < 0.5,
        chance=chance.getrandbits(32),
    )


def run_round(number: int, plan: Plan, trainings: Trainings, run: Run) -> Outcome:
    """Disturb a run as planned, go on with it to its end, and compare it.

    Raises: Missed where it was finished before the fault came.
    """
    undisturbed = trainings.undisturbed[plan.stage]
    outcome = Outcome(number, plan.fault, plan.stage, what=f"planned: {plan}")
    began = time.monotonic()
    try:
        injected = FAULTS[plan.fault](plan, trainings, run)
        outcome.what, outcome.in_save = injected.what, injected.in_save
        before = len(run.starts)
        if plan.fault != "full_disk":
            _go_on(plan, trainings, run, injected.told)
        _check_end(run, trainings, undisturbed)
        resumed = run.starts[before:]  # none where there was nothing left to do
        outcome.lost_steps = injected.step - resumed[-1] if resumed else 0
        outcome.survived = True
    except psutil.NoSuchProcess as error:
        raise Missed from error
    except Failure as failure:
        outcome.wrong = str(failure)
    outcome.bit_equal = run.finished and is_equal(run.weights, undisturbed.weights)
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


def _go_on(plan: Plan, trainings: Trainings, run: Run, told: Sequence[str]) -> None:
    """The same command with `--resume auto`, to its end."""
    with trainings.start(plan.stage, run, *RESUME) as start:
        _check_start(start, 0, told)


def _check_start(start: Start, code: int, told: Sequence[str] = ()) -> None:
    """Wait for the exit code that a start must have, when it has said what it must say."""
    found = start.wait()
    start.wait_until_gone()
    if found != code:
        raise Failure(f"ended with exit code {found} instead of {code}; its last words:\n{start.last_words()}")
    for pattern in told:
        if not re.search(pattern, start.output):
            raise Failure(f"did not say {pattern!r}; its last words:\n{start.last_words()}")


def _check_end(run: Run, trainings: Trainings, undisturbed: Run) -> None:
    """A finished run, every step once in its log, and a last checkpoint that is good."""
    if not run.finished:
        raise Failure("ended with exit code 0, and the run is not finished")
    if run.log != undisturbed.log:
        raise Failure("its log has other steps, losses or data than that of the undisturbed run")
    good, damages = newest_good(run.folder)
    if good is None or damages or Manifest.read(good).step != trainings.steps:
        raise Failure(f"its newest good checkpoint is {good}; {'; '.join(str(damage) for _, damage in damages)}")


def is_equal(one: Path, other: Path) -> bool:
    """Whether two files hold tensors of the same names, types, shapes and bits. One that cannot be read does not."""
    try:
        first, second = safetensors.torch.load_file(one), safetensors.torch.load_file(other)
    except (OSError, safetensors.SafetensorError):
        return False
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.shape == second[name].shape
        and torch.equal(tensor.reshape(-1).view(torch.uint8), second[name].reshape(-1).view(torch.uint8))
        for name, tensor in first.items()
    )


def _wait_for_moment(plan: Plan, start: Start, run: Run) -> None:
    start.wait_in_training(lambda: run.step >= plan.at_step, run, f"step {plan.at_step}")
    if plan.in_save:
        start.wait_in_training(lambda: run.is_saving, run, "a save")
    time.sleep(plan.delay_seconds)


def kill(plan: Plan, trainings: Trainings, run: Run) -> Injected:
    """SIGKILL to all processes at once, or to one rank, after which the launcher has to end the other."""
    with trainings.start(plan.stage, run) as start:
        _wait_for_moment(plan, start, run)
        if plan.ranks == ALL_RANKS:
            start.kill_all()
            in_save = run.is_saving  # as the kill left it
        else:
            victim = start.ranks()[plan.ranks[0]] if start.poll() is None else None
            in_save = run.is_saving  # the other rank may clear it up
            if victim is not None:
                victim.kill()
        start.wait_until_gone()
        if run.finished:
            raise Missed
    who = "all processes" if plan.ranks == ALL_RANKS else f"rank {plan.ranks[0]}"
    return Injected(f"SIGKILL of {who} after step {run.step}", run.step, in_save)


def damage(checkpoint: Path, fault: str, chance: random.Random) -> tuple[str, str]:
    """Flip a random byte of a random file of a checkpoint (flip), or cut the file off anywhere (truncate).

    Returns: the file's name in the checkpoint, and what was done to it.
    """
    names = [*Manifest.read(checkpoint).files, MANIFEST]
    name = chance.choice(sorted(name for name in names if (checkpoint / name).stat().st_size))
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    if fault == "truncate":
        os.truncate(path, place)
        return name, f"{name} of {checkpoint.name} cut to {place:,} of {len(content):,} bytes"
    content[place] ^= chance.randrange(1, 256)
    path.write_bytes(content)
    return name, f"byte {place:,} of {name} of {checkpoint.name} flipped"


def damaged(plan: Plan, trainings: Trainings, run: Run) -> Injected:
    """A kill, and then damage to the newest checkpoint: the one before is to be taken, file and reason named."""
    with trainings.start(plan.stage, run) as start:
        _wait_for_moment(plan, start, run)
        start.wait_in_training(lambda: bool(checkpoints_of(run.folder)), run, "a checkpoint")
        start.kill_all()
        if run.finished:
            raise Missed
    in_save = run.is_saving
    newest = checkpoints_of(run.folder)[0]
    name, what = damage(newest, plan.fault, random.Random(plan.chance))
    told = rf"passed over \S*{newest.name}: {re.escape(name)} \w"
    return Injected(what, run.step, in_save, (told,))


def full_disk(plan: Plan, trainings: Trainings, run: Run) -> Injected:
    """Saves one after the other find no space, for one of their files or for the folder; the training goes on."""
    chance = random.Random(plan.chance)
    newest = checkpoints_of(trainings.undisturbed[plan.stage].folder)[0]
    file = chance.choice(["", *sorted(Manifest.read(newest).files)])
    steps = [plan.at_step + index * SAVE_STEPS for index in range(plan.saves)]
    with trainings.start(plan.stage, run, full_disk={"steps": steps, "file": file}) as start:
        _check_start(start, 0, [f"the checkpoint of step {step} could not be written: " for step in steps])
    what = f"no space for {file or 'the folder'} in the saves of steps {', '.join(map(str, steps))}"
    return Injected(what, trainings.steps, in_save=True)


def term(plan: Plan, trainings: Trainings, run: Run) -> Injected:
    """SIGTERM to the ranks or to one of them: they end together, with the exit code that says so."""
    with trainings.start(plan.stage, run) as start:
        _wait_for_moment(plan, start, run)
        in_save = run.is_saving
        ranks = start.ranks()
        for rank in plan.ranks:
            ranks[rank].send_signal(signal.SIGTERM)
        start.wait_until_gone()
        if run.finished:
            raise Missed
        _check_start(start, RESUME_EXIT_CODE, [r"stopped by SIGTERM"])
    who = "all ranks" if plan.ranks == ALL_RANKS else f"rank {plan.ranks[0]}"
    return Injected(f"SIGTERM to {who}, ended after step {run.step}", run.step, in_save)


def stale_lock(plan: Plan, trainings: Trainings, run: Run) -> Injected:
    """SIGKILL of the launcher alone: a new start is refused while a rank lives, and its lock ends with it."""
    with trainings.start(plan.stage, run) as start:
        _wait_for_moment(plan, start, run)
        ranks = start.ranks()
        orphans = [ranks[number] for number in plan.ranks]
        # They stand still meanwhile: else they would be at their end before another start has come to the lock.
        with suspended(orphans):
            for process in [*start.launchers(), *(rank for rank in ranks if rank not in orphans)]:
                process.kill()
            start.wait()
            in_save = run.is_saving
            if run.finished:
                raise Missed
            _try_beside(plan, trainings, run, orphans)
            if not plan.goes_on:
                _kill(orphans)
        end = "went on to their end" if plan.goes_on else "were killed after another start"
        if plan.goes_on and plan.ranks != ALL_RANKS and not _end_alone(start):
            # gloo does not wake all that wait for a rank that died: the message of the start beside it says what to do.
            _kill(orphans)
            end = "waited for the dead one until it was killed"
        start.wait_until_gone()
    who = "both ranks" if plan.ranks == ALL_RANKS else f"rank {plan.ranks[0]}"
    return Injected(f"the launcher killed, {who} outlived it and {end}, at step {run.step}", run.step, in_save)


def _kill(ranks: Sequence[psutil.Process]) -> None:
    for rank in ranks:
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()


def _end_alone(start: Start) -> bool:
    """Whether a rank without the other comes to an end soon."""
    until = time.monotonic() + ALONE_SECONDS
    while start.members():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _try_beside(plan: Plan, trainings: Trainings, run: Run, orphans: Sequence[psutil.Process]) -> None:
    """A start beside ranks that live is refused; it names one of them, and changes nothing."""
    before = sorted(os.listdir(run.folder))
    with trainings.start(plan.stage, run, *RESUME) as start:
        pids = "|".join(str(orphan.pid) for orphan in orphans)
        _check_start(start, EXIT_CODE, [rf"is being written by process ({pids}) "])
    if sorted(os.listdir(run.folder)) != before:
        raise Failure("a start that was refused changed the run's folder")


FAULTS: dict[str, Callable[[Plan, Trainings, Run], Injected]] = {
    "kill": kill, "flip": damaged, "truncate": damaged, "full_disk": full_disk, "stale_lock": stale_lock, "term": term,
}  # fmt: skip
