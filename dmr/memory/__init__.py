"""How much memory there is, and what a model takes of it. Plain arithmetic over files: no native code."""
