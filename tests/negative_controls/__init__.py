"""Negative controls: the bridge broken on purpose, one promise at a time, to show that the suite would notice.

`python -m tests.negative_controls` (`./scripts/test --negative-controls`) runs, for every control of `controls.py`, the
tests that keep its promise, in processes where `breakages` has broken it; a control that they do not fail is an error.
Nothing in `bridge` knows of this.
"""
