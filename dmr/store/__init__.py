"""The model store: names, manifests, blobs and GGUF headers. Import from the modules; nothing is re-exported."""
