"""Brings models in: from files, torchvision and timm into a repository, with cards and checks; or just looks at one."""
