"""`modelvault run`: a command, the model's folder in memory that it reads, and their end.

Four processes, each of which only looks after the one that it started: the *front* is what the
user started and the shell waits for (`front`); the *holder* has lease, keys and folder (`holder`);
the *warden* starts the command and is the parent of all that it leaves behind (`warden`). Whichever
of them is killed, those beside it end the rest.
"""
