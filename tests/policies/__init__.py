"""Tests of `policies`: one flat file for each module, named after it."""
