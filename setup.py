"""Thin entry point: `python setup.py bdist_wheel` and `pip wheel .` build the same wheel from pyproject.toml."""

from setuptools import setup

setup()
