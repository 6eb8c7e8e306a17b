"""The engine: one process for each loaded model. Sequences, KV cache, scheduler, model runner and their turn."""
