"""Containment of other libraries, threads, caches and files."""
