"""Every broken pruner, with the options that it is tried with."""

from __future__ import annotations

import mutants_chance
import mutants_engines
import mutants_interface
import mutants_manners
import mutants_results
import mutants_state

ADVICE = mutants_interface.ADVICE
ON_CUDA = mutants_engines.ON_CUDA
MUTANTS = (
    *mutants_interface.MUTANTS,
    *ADVICE,
    *mutants_results.MUTANTS,
    *mutants_manners.MUTANTS,
    *mutants_engines.MUTANTS,
    *mutants_state.MUTANTS,
    *mutants_chance.MUTANTS,  # the last of them ends the processes that it is tried in
)
