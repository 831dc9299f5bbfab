"""All faulty pruners, with the options they are checked with."""

from __future__ import annotations

import mutants_chance
import mutants_cheating
import mutants_execution
import mutants_interface
import mutants_results
import mutants_side_effects
import mutants_state

ADVICE = mutants_interface.ADVICE
ON_CUDA = mutants_execution.ON_CUDA
MUTANTS = (
    *mutants_interface.MUTANTS,
    *ADVICE,
    *mutants_results.MUTANTS,
    *mutants_side_effects.MUTANTS,
    *mutants_execution.MUTANTS,
    *mutants_state.MUTANTS,
    *mutants_cheating.MUTANTS,
    *mutants_chance.MUTANTS,  # the last one ends the processes it is checked in
)
