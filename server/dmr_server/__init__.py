"""The HTTP surface: dialects over one `Service`."""
