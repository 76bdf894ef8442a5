"""Rewards of a server: Assay's own service, or an engine's."""
