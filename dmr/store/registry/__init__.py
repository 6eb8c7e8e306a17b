"""The distribution API of OCI registries: manifests and blobs over HTTP, with its two kinds of authorization."""
