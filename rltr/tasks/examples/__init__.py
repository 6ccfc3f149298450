"""Inputs by number, ready for a model: one file for each form in which data come."""
