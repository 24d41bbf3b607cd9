"""Adds models to a repository, from files, torchvision and timm, with cards and checks; or only inspects one."""
