"""The methods by their words; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec

from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.method import Method

METHODS = {
    "holdout": "nonvacuous.learning.holdout:HoldOut",
    "pac-bayes": "nonvacuous.learning.pac_bayes:PacBayes",
    "pac-bayes-deep": "nonvacuous.learning.deep_pac_bayes:DeepPacBayes",
    "compression": "nonvacuous.learning.compression:Compression",
    "transfer": "nonvacuous.learning.transfer:Transfer",
    "sample-compression": "nonvacuous.learning.sample_compression:SampleCompression",
    "shallow": "nonvacuous.learning.shallow:Shallow",
    "surrogate": "nonvacuous.learning.surrogate:Surrogate",
    "disintegrated": "nonvacuous.learning.disintegrated:Disintegrated",
    "data-dependent": "nonvacuous.learning.data_dependent:DataDependent",
    "auto": "nonvacuous.learning.auto:Auto",
}


def available() -> list[str]:
    """Words of the methods that this installation has."""
    return [word for word, place in METHODS.items() if find_spec(place.partition(":")[0]) is not None]


def method_class(word: str) -> type[Method]:
    """The method of that word; :class:`InvalidInput` with the nearest ones for an unknown one."""
    if not isinstance(word, str) or word not in available():
        near = get_close_matches(str(word), available(), 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"no method is called {word!r:.60}. {hint}Possible: {', '.join(available())}")
    module, _, name = METHODS[word].partition(":")
    found: type[Method] = getattr(import_module(module), name)
    return found


def method_of(certificate: Certificate) -> Method | None:
    """The method a certificate names, with its settings; None for a certificate that no method of learning issued.

    :raises InvalidEvidence: a method that this version does not have, or settings that it does not have.
    """
    word = certificate.measurement.get("method")
    if word is None:
        return None
    try:
        kind = method_class(word)
    except InvalidInput as error:
        raise InvalidEvidence(str(error)) from error
    settings = certificate.measurement.get("settings")
    if not isinstance(settings, Mapping):
        raise InvalidEvidence("the certificate does not record the settings of its method")
    return kind.of(settings)
