"""One page a certificate for an assurance case: limits first, then what a person must argue, then the evidence.

The words are those of the learning-assurance guidance of the European Union Aviation Safety Agency. Only objectives whose text
was checked are named, and naming one claims no compliance with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nonvacuous.auditing import wording
from nonvacuous.auditing.result import Audit
from nonvacuous.core.bound import Sample
from nonvacuous.core.certificate import Assumption, Certificate

GUIDANCE = "EASA Concept Paper: Guidance for Level 1 & 2 Machine Learning Applications, Issue 02, March 2024"
GUIDANCE_URL = (
    "https://www.easa.europa.eu/en/document-library/general-publications/easa-artificial-intelligence-concept-paper-issue-2"
)

OBJECTIVES = {
    "DM-06": "distribute the data into separate training, validation and test data sets that are independent as required",
    "DM-08": "confirm that the operational design domain (ODD) and the data sets are appropriate",
    "LM-04": "provide quantifiable generalisation bounds",
    "LM-06": "document any model optimisation that may affect the model behaviour, such as pruning or quantisation",
    "LM-14": "verify the anticipated generalisation bounds using the test data set",
}

HEADINGS = {
    "iid": "Independent examples from the operation in view",
    "mixing": "Dependence that fades as fast as stated",
    "stationary": "A stationary series",
    "fixed_predictor": "Predictor fixed before the held-out data were seen",
    "bounded_loss": "Loss between 0 and 1",
    "data_free_prior": "Prior chosen without the training data",
    "data_free_code": "Code chosen without the training data",
    "fixed_class": "Architecture chosen without the training data",
    "fixed_grid": "Grid of the parameter chosen without the training data",
    "drawn_once": "Random draws made once, from a seed chosen beforehand",
    "run_once": "One run, its network, settings and seed chosen beforehand",
}

ARGUMENTS = {
    "iid": (
        "How were the examples collected? Say why one example tells nothing about another (no duplicates, no frames of one scene "
        "on both sides of the split), and why the sample represents the ODD in the proportions of use. Related objective: DM-08."
    ),
    "mixing": (
        "What is known of the process that makes the series, and why does it forget this fast? No test of the series can show it, and "
        "an assumption chosen after looking at the value it gives is none. Related objective: DM-08."
    ),
    "stationary": (
        "Why is there no trend, no season and no drift, from training to use? Say what would end it, and who watches for it. Related "
        "objective: DM-08."
    ),
    "fixed_predictor": (
        "Who held the test data set, and when was it first read? Say why no training, early stopping, choice of model, "
        "threshold or pre-processing used it. Related objective: DM-06."
    ),
    "data_free_prior": "Where is it recorded that architecture, initial weights and prior widths were fixed beforehand?",
    "data_free_code": "Where is it recorded that the order and format of the coded numbers were fixed beforehand?",
    "fixed_class": "Where is it recorded that this architecture was chosen beforehand?",
    "fixed_grid": "Where is it recorded that the grid was fixed beforehand?",
    "reference_fixed": "Where is it recorded that the initial weights were fixed before the data were seen?",
    "bounded_inputs": "What keeps every input in use within the declared range (a sensor's scale, a check at the entrance)?",
    "cells_fixed": "Where is it recorded that the range the cells divide was fixed beforehand?",
    "cells_cover": "What keeps every input in use within the declared range (a sensor's scale, a check at the entrance)?",
    "fixed_features": "Where is it recorded that the features were fixed without this data?",
    "drawn_once": "Where is it recorded that the seed was chosen beforehand, and that no run was repeated with another?",
}


@dataclass(frozen=True)
class Sheet:
    """The page of one certificate. ``argue`` and ``checked`` hold a heading, an assumption and a hint or note each."""

    certificate: Certificate
    name: str
    title: str
    value: str
    statement: str
    limits: tuple[str, ...]
    argue: tuple[tuple[str, Assumption, str], ...]
    checked: tuple[tuple[str, Assumption, str], ...]
    objectives: tuple[str, ...]
    source: str
    evidence: tuple[tuple[str, str, str], ...]


def sheets(audit: Audit) -> list[Sheet]:
    """A page for each certificate, in the order of the audit."""
    names = wording.file_names(audit.certificates)
    return [sheet_of(certificate, name) for certificate, name in zip(audit.certificates, names, strict=True)]


def sheet_of(certificate: Certificate, name: str = "") -> Sheet:
    """The page of one certificate."""
    bound = wording.theorem(certificate)
    held_out = bound is not None and bound.sample is Sample.HELD_OUT
    assumptions = certificate.hypotheses
    return Sheet(
        certificate=certificate,
        name=name,
        title=wording.title(certificate),
        value=wording.certified(certificate),
        statement=statement(certificate),
        limits=limits(certificate, held_out),
        argue=tuple((heading(a), a, ARGUMENTS.get(a.name, "")) for a in assumptions if not a.checked),
        checked=tuple((heading(a), a, a.note) for a in assumptions if a.checked),
        objectives=("LM-04", "LM-14") if held_out else ("LM-04",),
        source="" if bound is None else bound.source,
        evidence=tuple(wording.evidence(certificate)),
    )


def heading(assumption: Assumption) -> str:
    """A hypothesis in a few plain words."""
    return HEADINGS.get(assumption.name, wording.words(assumption.name).capitalize())


def statement(certificate: Certificate) -> str:
    """The certificate in one sentence."""
    if certificate.vacuous:
        return "This certificate promises nothing: its theorem gives no bound below 1, the largest possible risk."
    bound = wording.theorem(certificate)
    sample = "" if bound is None else f"{bound.sample.value} "
    return (
        f"Except with probability at most {wording.share(certificate.delta)} over the draw of the {sample}sample, "
        f"{claim(certificate)}."
    )


def claim(certificate: Certificate) -> str:
    """Whose risk is at most what, without the probability."""
    subject = wording.SUBJECTS.get(certificate.predictor, f"the predictor “{certificate.predictor}”")
    value = wording.certified(certificate)
    if wording.is_share(certificate.loss):
        return f"{subject} is wrong on at most {value} of new examples, in the long run"
    return f"{subject} has a mean {wording.words(certificate.loss)} of at most {value} on new examples, in the long run"


def limits(certificate: Certificate, held_out: bool) -> tuple[str, ...]:
    """What the certificate does not say."""
    other = {
        "gibbs": "What the network does with fixed weights: it speaks of the randomized classifier only.",
        "compressed": "What the network does that the compressed one was made from: it speaks of the compressed one only.",
        "drawn": "What the network as given does: it speaks only of the one network that was drawn from the posterior.",
    }.get(certificate.predictor)
    general = (
        "How any single prediction, class, group or part of the ODD fares: it bounds an average.",
        "Anything about examples from another source: on shifted data, faulty sensors or adversarial inputs it is silent.",
        "Anything about other weights: retraining, pruning, quantisation or conversion void it (compare objective LM-06).",
        "How probable it is that this very statement is true: δ is how often the procedure may fail over all samples.",
    )
    reuse = ("Anything once the held-out sample has served to choose or tune: it must be fresh.",) if held_out else ()
    assumed = next((a.statement.rpartition("Stated: ")[2] for a in certificate.hypotheses if a.name == "mixing"), None)
    series = (
        f"Anything unless the series forgets as fast as was assumed, not measured: {assumed} It speaks of the long run, not of the time "
        "just after what was seen.",
    )
    return (*(series if assumed else ()), *((other,) if other else ()), *general, *reuse)
