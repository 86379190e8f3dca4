"""An extension of mkdocstrings: the type of ``Annotated[type, ...]`` is shown without its annotations."""

from typing import Any

import griffe


class PlainTypes(griffe.Extension):
    """Shorten the types of attributes while a module is read."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take the first of what ``Annotated`` holds as the type."""
        annotation = attr.annotation
        if isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_name == "Annotated":
            attr.annotation = annotation.slice.elements[0]
