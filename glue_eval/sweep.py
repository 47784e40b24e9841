"""All tasks with all seeds: `python -m glue_eval --model DIR --data GLUE --tasks all --seeds 5 --output_dir OUT`.

The same command goes on where a sweep was interrupted: a run that has its result is kept, for its folder is named by
the hash of all that it depends on. A run that failed is tried again.
"""

from __future__ import annotations

import contextlib
import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from glue_eval import PRELOAD
from glue_eval.options import PROGRAM, check_options, command_parser, recipe_path, task_settings
from glue_eval.planning import Plan, check_loads, local_model, make_plan
from glue_eval.protocol import OWN_FILES, Failure
from glue_eval.recorded import read_recorded, read_result
from glue_eval.report import write_glue_report
from glue_eval.tasks import parse_task_names
from nlp_adan.locks import folder_lock
from nlp_adan.progress import progress
from nlp_adan.runs import Outcome, Run, execute
from nlp_adan.runs.execution import describe_outcome
from nlp_adan.runs.folder import write_failure
from nlp_adan.runs.process import told
from nlp_adan.runs.run import RESULT
from nlp_adan.training.agreement import largest_over_ranks, wait_for_all_ranks
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.environment import environment, same_environment

LOCK_SECONDS = 2.0  # for a sweep that is just ending


def sweep(words: Sequence[str]) -> int:
    """Plan, do the runs that have no result, and write the report; how many runs failed.

    Raises:
        UserError: a mistake that was found before the first run; nothing is written then.
    """
    quiet_libraries()
    parser = command_parser()
    with same_environment():
        glue, engine = parser.parse(words)
        check_options(glue, engine, words)
        tasks = parse_task_names(glue.tasks)
        model = local_model(glue.model)
        settings = task_settings(parser, words, tasks)
    is_first = engine.process_index == 0
    # Every rank has looked at the folder before any of them leaves this block, and rank 0 writes into it.
    with engine.main_process_first(desc="tasks"):
        recipe = recipe_path(words, glue.config)
        where = {**environment(), "command": shlex.join([*PROGRAM.split(), *words])}
        plan = make_plan(settings, model, recipe, Path(engine.output_dir), where)
    if glue.dry_run:
        from glue_eval.dry_run import dry_run

        dry_run(plan, glue.jobs, speaks=is_first)
        return 0
    num_waiting = sum(not run.is_done for run in plan.runs)
    if num_waiting and not engine.deepspeed:
        check_loads(plan)
    with folder_lock(plan.folder, LOCK_SECONDS) if is_first else contextlib.nullcontext():
        if is_first:
            plan.write()
            print(beginning(plan, num_waiting), flush=True)
        if engine.world_size > 1:
            outcomes = run_together(plan.runs, is_first, bar=not engine.disable_tqdm)
        else:
            outcomes = execute(
                plan.runs,
                jobs=glue.jobs,
                devices=() if engine.use_cpu else None,
                preload=PRELOAD,
                describe=describe,
                bar=not engine.disable_tqdm,
            )
        return finish(plan, outcomes) if is_first else 0


def beginning(plan: Plan, num_waiting: int) -> str:
    """A line about a sweep that begins."""
    num_kept = len(plan.runs) - num_waiting
    kept = f", {num_kept} of them there already" if num_kept else ""
    optimizers = dict.fromkeys(str(getattr(each.engine.optim, "value", each.engine.optim)) for each in plan.settings)
    recipe = plan.protocol.recipe + (f" with {plan.protocol.config}" if plan.protocol.config else "")
    data = plan.protocol.data if plan.protocol.data == OWN_FILES else plan.specs[0].data
    return (
        f"{len(plan.runs)} runs{kept}, on {data}, recipe {recipe}, optimizer {', '.join(optimizers)}; "
        f"`python -m glue_eval report {plan.folder}` tells at any time what there is"
    )


def describe(outcome: Outcome) -> str:
    """A line about a run that has come to its end, with its scores."""
    if outcome.state == "failed":
        return describe_outcome(outcome)
    result = read_result(outcome.run.folder / RESULT)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    state = ", diverged" if result.diverged else ", collapsed" if result.collapsed else ""
    return f"{outcome.run.name}: {scores}{state} ({outcome.seconds:.0f} s)"


def run_together(runs: Sequence[Run], is_first: bool, bar: bool) -> list[Outcome]:
    """All ranks do each run together in their own processes; the first one that fails ends the call."""
    kept = largest_over_ranks(*(float(run.is_done) for run in runs))
    outcomes: list[Outcome] = []
    for run, is_kept in zip(runs, kept, strict=True):
        if is_kept:
            outcomes.append(Outcome(run, "kept"))
            continue
        began = time.monotonic()
        try:
            with run_bar(run.name, is_first and bar) as advance:
                run.function(run.folder, advance, **run.arguments)
        except Exception as error:
            if is_first:
                write_failure(run.folder, run.name, told(error), time.monotonic() - began)
            raise
        wait_for_all_ranks()
        gc.collect()  # the engine's cycles hold the model
        outcomes.append(Outcome(run, "done", seconds=time.monotonic() - began))
        if is_first:
            print(f"[{len(outcomes)}/{len(runs)}] {describe(outcomes[-1])}", flush=True)
    return outcomes


@contextlib.contextmanager
def run_bar(name: str, is_shown: bool) -> Iterator[Callable[[float, float], None]]:
    """`advance` of a run in this process, as a bar of its own."""
    if not is_shown:
        yield lambda done, total: None
        return
    with progress(
        description=name, unit="", total=100, bar_format="{desc}{percentage:3.0f} % |{bar}| {elapsed}"
    ) as bar:
        yield lambda done, total: bar.update(100 * done / total - bar.n)


def finish(plan: Plan, outcomes: Sequence[Outcome]) -> int:
    """Write the report of what there is, name what is missing; how many runs failed."""
    failures = [
        Failure(outcome.run.arguments["task"].name, outcome.run.arguments["seed"], outcome.error)
        for outcome in outcomes
        if outcome.state == "failed"
    ]
    results = read_recorded(plan.folder).results
    if results:
        write_glue_report(plan.folder, results, protocol=plan.protocol, failures=failures)
        print(f"report: {plan.folder / 'report.html'}, {plan.folder / 'report.md'}", flush=True)
    for result in results:
        if result.diverged:
            print(f"note: {result.diverged}", file=sys.stderr)
    for failure in failures:
        print(f"error: {failure.task} seed {failure.seed}: {failure.error}", file=sys.stderr)
    if failures:
        number = "no run" if not results else f"{len(results)} of {len(outcomes)} runs"
        print(f"{number} succeeded; the same command tries the others again", file=sys.stderr, flush=True)
    return len(failures)
