"""dmr beside llama-server: the same requests over HTTP to both, in turns, and a table of ratios. docs/benchmarks.md."""
