"""Images as sparse changes to a meta-learned SIREN, decoded at any scale."""

__version__ = "0.1.0"
