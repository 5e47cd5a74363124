"""Label engines: one file each, joined by the decorator of :mod:`hessgnn.surface.engines.base`."""
