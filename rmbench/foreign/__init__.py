"""Private interfaces of other libraries: each stands here once, with the reason, so that an upgrade is checked here."""
