"""Tests of `encoders`, one file for each module."""
