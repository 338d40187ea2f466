"""Advice of messages, as far as a verb can follow it."""

import re

OF_A_FINISHED_RUN = ("predict", "evaluate")  # verbs that take no settings of the data
OR_A_SETTING = re.compile(r",? or (?:(?! or ).)*?--data(?:\.\w+)+(?:=[^\s.]+)?[^.;\n]*")


def advice_for(verb: str, message: str) -> str:
    """Drop from a message the settings that a verb does not take; what else to do stays.

    Args:
        verb: Name of the verb that prints it.
        message: It ends in advice such as 'Rename it, or set --data.columns.label.'
    """
    return OR_A_SETTING.sub("", message) if verb in OF_A_FINISHED_RUN else message
