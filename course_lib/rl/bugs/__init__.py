"""Bugs that people ship in RL loops: the lab that runs them, the switches, and what catches them. `rl.bug_zoo` has the list."""
