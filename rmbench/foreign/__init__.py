"""Private interfaces of other libraries, each used only here, with the reason, to be checked after upgrades."""
