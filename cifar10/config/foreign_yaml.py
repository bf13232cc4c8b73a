"""YAML in files that others may have written: references could expand to any size, and brackets take any time."""

from typing import Any

import yaml

_OPENING = (
    *(yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken),
    *(yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken),
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_DEEPEST = 50


def parse_yaml(text: str) -> Any:
    """Return the content of a document.

    Raises:
        ValueError: A value refers to another one, or values are nested too deeply.
        RecursionError, yaml.YAMLError: It cannot be read.
    """
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if isinstance(token, yaml.AliasToken) or depth > _DEEPEST:
            raise ValueError("values refer to others or are nested deeply; write each of them out")
    return yaml.safe_load(text)
