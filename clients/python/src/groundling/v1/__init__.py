"""The messages of Groundling, generated from proto/groundling/v1."""
