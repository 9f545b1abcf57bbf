"""Tests of maps, one a file."""
