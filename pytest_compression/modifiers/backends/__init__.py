"""Compression by other libraries, each imported only when a recipe that names it runs."""
