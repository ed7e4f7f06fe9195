"""Where credentials come from and how they are renewed."""
