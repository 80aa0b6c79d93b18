"""How published data sets lie on disk: one module per layout, each of which lists samples."""
