"""Preprocesses the text of a YAML configuration: checks keys and normalises their spelling."""

from collections.abc import Collection

import yaml

from dist_plm.cli.spelling import SPELLED_VALUES, schema_spelling, suggestion
from dist_plm.config.retired import RETIRED, retired_fault
from dist_plm.files.plain_yaml import PlainLoader


def checked_text(text: str, known: Collection[str]) -> str:
    """`text` with American spelling replaced, and without retired keys.

    Args:
        text: YAML; text that is not a mapping, or not YAML, is returned unchanged for the parser to report.
        known: All keys with dots.

    Raises:
        ValueError: An unknown key, a duplicate key, a retired key at another value, or an alias; one line of text that
            begins with the number of the line at fault.
    """
    try:
        root = yaml.compose(text, PlainLoader)
    except yaml.composer.ComposerError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except yaml.YAMLError:
        return text
    if not isinstance(root, yaml.MappingNode):
        return text
    return yaml.serialize(root, Dumper=yaml.SafeDumper) if _respell(root, "", known) else text


def _respell(section: yaml.MappingNode, prefix: str, known: Collection[str]) -> bool:
    """Whether a node in the section, or below it, was replaced or removed."""
    seen: set[str] = set()
    replaced = False
    for key, value in list(section.value):
        if not isinstance(key, yaml.ScalarNode):
            continue
        spelled = schema_spelling(str(key.value))
        replaced |= spelled != key.value
        key.value, name = spelled, f"{prefix}{spelled}"
        where = f"line {key.start_mark.line + 1}: "
        if name in seen:
            raise ValueError(f"{where}{name} is a duplicate key, only the last of which would take effect: merge them")
        seen.add(name)
        is_section = any(key.startswith(f"{name}.") for key in known)
        if name in RETIRED:
            if fault := retired_fault(name, yaml.load(yaml.serialize(value), PlainLoader)):
                raise ValueError(f"{where}{fault}")
            section.value.remove((key, value))
            replaced = True
            continue
        if not is_section and name not in known:
            raise ValueError(f"{where}unknown key {name}{suggestion(name, known)}")
        if is_section and isinstance(value, yaml.MappingNode):
            replaced |= _respell(value, f"{name}.", known)
        elif name in SPELLED_VALUES and isinstance(value, yaml.ScalarNode):
            replaced |= (spelled := schema_spelling(str(value.value))) != value.value
            value.value = spelled
    return replaced
