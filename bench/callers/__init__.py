"""Callers of many kinds, most of them in processes of their own."""
