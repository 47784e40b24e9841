"""Sets of runs that survive: each has a process and a folder of its own, finished ones are kept, failed ones are tried
again by the next call.
"""

from nlp_adan.runs.execution import execute, start_server
from nlp_adan.runs.run import Advance, Outcome, Run

__all__ = ["Advance", "Outcome", "Run", "execute", "start_server"]
