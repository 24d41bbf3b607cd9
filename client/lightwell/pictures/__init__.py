"""Decodes images and draws the results of methods."""
