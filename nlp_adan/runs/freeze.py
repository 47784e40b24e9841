"""Imported last by the server that runs are forked from: what is there by then is garbage to no run.

Their collections need not look at some hundred thousand objects of the libraries, nor write into the memory that they
share with the server. The server itself has nothing to finalise, and leaves without it.
"""

import atexit
import gc
import os

gc.collect()
gc.freeze()
atexit.register(os._exit, 0)  # runs never come here: multiprocessing ends them by `os._exit` too
