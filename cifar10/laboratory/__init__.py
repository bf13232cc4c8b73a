"""A comparison of trained networks: many runs in a folder, trained side by side, and what becomes of the best one."""
