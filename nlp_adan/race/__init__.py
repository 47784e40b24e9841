"""Optimizers raced on one recipe: settings searched for at equal cost, then the same data from the same weights.

    options      what the command line says
    entrants     who races: presets, rates to begin with, weight decay
    search       which settings to try next
    budget       how long a run is
    planning     a run's words, its key and its folder
    run          one run, in a process of its own
    results      what runs and the race leave behind
    record       what is raced in a folder, and what changed since
    conduct      search, finals, batch sizes, one after the other
    verdict, report   what came of it

`nlp_adan.runs` does the runs, as it does those of a GLUE sweep: the same command goes on where it was interrupted.
"""
