"""Telling a person that something is wrong, and an outside monitor that all is well."""
