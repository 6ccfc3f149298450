"""The one place that states rltr's version; the package's metadata is read from here."""

__version__ = "0.1.0"
"""The version of rltr."""
