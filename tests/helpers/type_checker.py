"""The checker of annotated shapes and types: whole numbers pass for fractions, as in Python."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
