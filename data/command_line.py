"""key=value arguments to a dataclass, with one sentence for every mistake."""

from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

Schema = TypeVar("Schema")


def parse(schema: type[Schema], arguments: list[str], usage: str) -> Schema:
    """The config that key=value arguments describe; ``usage`` is what to type.

    Raises:
        ValueError: a key is misspelt or missing, or a value is of the wrong kind.
    """
    structured = OmegaConf.structured(schema)
    if words := [word for word in arguments if "=" not in word]:
        raise ValueError(f"got {words[0]!r}, expected key=value; type: {usage}")
    try:
        merged = OmegaConf.merge(structured, OmegaConf.from_cli(arguments))
    except ConfigKeyError as error:
        own = [key for key in structured if key in schema.__annotations__]
        known = " ".join([*own, *(key for key in structured if key not in own)])
        raise ValueError(f"no setting is called {error.key}; there are: {known}.") from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}.") from error
    missing = OmegaConf.missing_keys(merged)
    if missing:
        raise ValueError(f"{' and '.join(sorted(missing))} not given; type: {usage}")
    return OmegaConf.to_object(merged)
