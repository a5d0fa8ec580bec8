"""`modelvault run`: a command gets a model as a folder in memory, while its lease lives."""
