"""The jobs: a file for each, with its turn (forward and loss), its stage (data, export) and its network."""
