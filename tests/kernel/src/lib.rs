//! End to end on the real kernel: an agent, the command line, real processes. The tests are in `tests/`.
