"""A study: trials that share a search space and a database, made by one process or several."""
