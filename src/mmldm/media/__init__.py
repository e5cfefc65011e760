"""Media: files <-> clips <-> audio images. Everything that touches a foreign file is here."""
