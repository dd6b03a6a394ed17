"""The subcommands of `lightning-compress`, one file each; every one is a Hydra application."""
