"""Packages of the wheel; all other metadata is in pyproject.toml, which cannot rename a folder.

The recipes in configs/ are installed as the data of a package `training.configs`.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeline*", "training*", "evaluation*"]), "training.configs"],
    package_dir={"training.configs": "configs"},
    package_data={"training.configs": ["*.yaml"], "evaluation.report": ["*.html", "*.css"]},
)
