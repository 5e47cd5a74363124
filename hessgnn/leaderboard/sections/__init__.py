"""The sections of the leaderboard, one file each: a class with a decorator, and its template beside it."""
