"""From the words that a user typed to a configuration that has been looked at, or to a help page, in about a second.

Nothing here imports torch: what is wrong with a word is told before the commands are loaded.
"""
