"""An audit as a page that works without a network, and as a small static piece of HTML for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nonvacuous._version import __version__
from nonvacuous.auditing import assurance, series, wording
from nonvacuous.auditing.pages import environment, figure_data, plotly_script
from nonvacuous.auditing.result import Audit
from nonvacuous.core.bound import Sample
from nonvacuous.core.certificate import Assumption, Certificate

PARTS = {
    "irreducible": (
        "The risk of the best function there is: inputs alone do not settle the label. No model and no amount of data goes "
        "below it."
    ),
    "approximation": (
        "How much worse the best network of this architecture is than the best function. A larger or better suited model lowers it."
    ),
    "sampling": (
        "Lowest training risk minus lowest true risk: how much this one sample flatters the best network of the class. "
        "Usually negative; the textbook split into optimization and generalization leaves it out."
    ),
    "optimization": "How far training stayed above the lowest training risk. Longer or better training lowers it.",
    "generalization": (
        "True risk minus training risk of this very network. More data, or a simpler explanation of them, lowers it."
    ),
}


@dataclass(frozen=True)
class Headline:
    """The result in plain words: the certificate it quotes (None if there is none), its number, and three sentences."""

    certificate: Certificate | None
    number: str
    promise: str
    basis: str
    measured: str


def headline(audit: Audit) -> Headline:
    """What is promised, for which predictor, at what confidence, on which assumption; or that nothing is."""
    facts = audit.facts
    asked = [c for c in audit.certificates if c.loss == facts.loss and not c.vacuous]
    own = [c for c in asked if c.predictor == "deterministic"]
    best = min(own or asked, key=lambda c: c.value, default=None)
    sure = wording.confidence(facts.delta)
    measured = ""
    if facts.test is not None:
        counted = f" ({wording.plain(facts.test.errors)} wrong)" if facts.test.errors is not None else ""
        measured = (
            f"Measured on the {wording.plain(facts.test.n)} held-out examples, without any guarantee: "
            f"{wording.observed(facts.test.risk, facts.loss)}{counted}."
        )
    if best is None:
        why = "No certificate was issued." if not audit.certificates else "Every certificate is vacuous: none lies below 1."
        fresh = (
            ""
            if facts.test is not None
            else " A held-out sample that training never read gives the tightest ones: pass one as test."
        )
        return Headline(
            None, "", f"Nothing non-vacuous can be promised about this network at confidence {sure}.", why + fresh, measured
        )
    promise = f"With confidence at least {sure}, {assurance.claim(best)}."
    if not own:
        promise = (
            f"About the network as given, nothing non-vacuous can be promised. But with confidence at least {sure}, "
            + promise[promise.index(",") + 2 :]
        )
    argue = [assurance.heading(a)[0].lower() + assurance.heading(a)[1:] for a in best.hypotheses if not a.checked]
    source = _sample(best)
    basis = f"It rests on the {wording.title(best)} theorem{source}" + (
        f" and on what a person must argue: {_listed(argue)}." if argue else "."
    )
    return Headline(best, f"≤{wording.THIN}{wording.certified(best)}", promise, basis, measured)


def _sample(certificate: Certificate) -> str:
    bound = wording.theorem(certificate)
    n = certificate.evidence.get("n")
    if bound is None or n is None:
        return ""
    return f", applied to {wording.plain(n)} {bound.sample.value} examples,"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def warnings(audit: Audit) -> list[str]:
    """What the recorded facts give cause to say before anything else."""
    facts = audit.facts
    says = []
    if facts.test is None:
        says.append(
            "No held-out sample was given: nothing here measures the risk, there is only what training data can prove."
        )
    if facts.overlap:
        says.append(
            f"{wording.plain(facts.overlap)} held-out examples also occur in the training sample. Each was counted as an error, "
            "and the whole held-out sample deserves suspicion."
        )
    return says + series.warnings(facts)


def may_not_conclude(audit: Audit) -> list[str]:
    """What a reader must not take from the report."""
    certificates = audit.certificates
    says = [
        "That any single prediction, class or group fares as well: every number is an average over all new examples.",
        "That it lasts: on data from another source, after a drift, or chosen by an adversary, nothing is promised.",
        "That it carries over to other weights: once trained on, pruned, quantized or converted, it is another network.",
    ]
    if any(_on_held_out(c) for c in certificates):
        says.append("That a held-out certificate still holds if the held-out sample served to train, stop, choose or tune.")
    if any(c.predictor != "deterministic" for c in certificates):
        says.append("That a certificate for a randomized or compressed network says anything of the network as given.")
    if any(c.vacuous for c in certificates):
        says.append("That the network is bad where a certificate is vacuous: this theorem proves nothing here, that is all.")
    if any(not c.vacuous for c in certificates):
        says.append(
            f"That this result is right with probability {wording.confidence(audit.facts.delta)}: so often is the "
            "procedure right, over all samples it might have been given."
        )
    return says


def may_conclude(audit: Audit) -> list[str]:
    """What a reader may take from the report."""
    delta = audit.facts.delta
    best = headline(audit).certificate
    says = []
    if best is not None:
        says.append(
            f"If the assumptions hold, {assurance.claim(best)}, unless the sample was an unlucky one. At most "
            f"{wording.odds(delta)} of all samples are."
        )
        says.append(
            f"All certificates hold at once with confidence {wording.confidence(delta)}, so the "
            "smallest may be picked at no extra cost."
        )
    says.append("Anyone can check every certificate again from its file, and its evidence from the model and the data.")
    return says


def _on_held_out(certificate: Certificate) -> bool:
    bound = wording.theorem(certificate)
    return bound is not None and bound.sample is Sample.HELD_OUT


class Grounds(NamedTuple):
    """The hypotheses of an audit: those that a non-vacuous certificate rests on, and those that only vacuous ones need."""

    carrying: list[tuple[str, Assumption, list[str]]]
    idle: list[tuple[str, Assumption, list[str]]]


def assumptions(audit: Audit) -> Grounds:
    """Each hypothesis once, with its heading and the certificates that rest on it; those a person must argue come first."""
    groups: dict[tuple[str, str, bool, str], tuple[str, Assumption, list[str]]] = {}
    carrying = set()
    for certificate in audit.certificates:
        for a in certificate.hypotheses:
            key = (a.name, a.statement, a.checked, a.note)
            entry = groups.setdefault(key, (assurance.heading(a), a, []))
            if (title := wording.title(certificate)) not in entry[2]:
                entry[2].append(title)
            if not certificate.vacuous:
                carrying.add(key)
    ordered = sorted(groups.items(), key=lambda item: item[0][2])
    return Grounds(
        [group for key, group in ordered if key in carrying], [group for key, group in ordered if key not in carrying]
    )


def page(audit: Audit) -> str:
    """The whole report as one HTML document: works offline, asks for nothing from outside, prints."""
    return environment().get_template("report.html.j2").render(**_context(audit), plotly=plotly_script())


def fragment(audit: Audit) -> str:
    """A summary for notebooks: static, styled in place, no scripts."""
    return environment().get_template("fragment.html.j2").render(**_context(audit, with_charts=False))


def _context(audit: Audit, with_charts: bool = True) -> dict[str, Any]:
    predictors = list(dict.fromkeys(c.predictor for c in audit.certificates))
    kinds = sorted({part.measured.kind for part in (*audit.budget.parts, audit.budget.risk)})
    return {
        "audit": audit,
        "facts": audit.facts,
        "headline": headline(audit),
        "warnings": warnings(audit),
        "may": may_conclude(audit),
        "may_not": may_not_conclude(audit),
        "sheets": assurance.sheets(audit),
        "assumptions": assumptions(audit),
        "charts": _charts(audit) if with_charts else {},
        "predictors": predictors,
        "kinds": kinds,
        "needed": {(need.bound, need.predictor): wording.need(need) for need in audit.needs},
        "budget_rows": [*audit.budget.parts, audit.budget.risk],
        "part_words": PARTS,
        "version": __version__,
        "curvature_told": _curvature_told(audit),
        "objectives": assurance.OBJECTIVES,
        "guidance": assurance.GUIDANCE,
        "guidance_url": assurance.GUIDANCE_URL,
    }


def _curvature_told(audit: Audit) -> list[tuple[str, str]]:
    from nonvacuous.auditing import curvature

    return [] if audit.curvature is None else curvature.told(audit.curvature)


def _charts(audit: Audit) -> dict[str, Any]:
    from nonvacuous.auditing import charts

    loss = audit.facts.loss
    told = {
        "scaled": "Histogram of the margins divided by the spectral complexity and the size of the inputs: the shape of the one before.",
        "ladder": "Bar chart of certified risks, tightest first. "
        + charts.described([(wording.title(c), wording.certified(c)) for c in audit.certificates]),
        "budget": "Bar chart of the parts of the risk as intervals. "
        + charts.described([(p.name, wording.interval(p.measured, loss)) for p in (*audit.budget.parts, audit.budget.risk)]),
        "margins": "Histogram of the margins; negative margins are errors. "
        + charts.described(
            [
                (name, f"{_below_zero(bins)} of {wording.plain(sum(count for *_, count in bins))} below 0")
                for name, bins in _bins(audit)
            ]
        ),
    }
    figures = {
        "ladder": charts.ladder(audit) if audit.certificates else None,
        "budget": charts.budget(audit),
        "margins": charts.margins(audit),
        "scaled": charts.scaled_margins(audit),
    }
    return {
        name: {"figure": figure_data(figure), "told": told[name], "height": figure.layout.height}
        for name, figure in figures.items()
        if figure is not None
    } | {"bins": _bins(audit), "config": charts.CONFIG}


def _bins(audit: Audit) -> list[tuple[str, list[tuple[float, float, int]]]]:
    from nonvacuous.auditing.charts import histogram

    samples = (("training", audit.facts.train), ("held-out", audit.facts.test))
    return [(name, bins) for name, sample in samples if sample is not None and (bins := histogram(sample))]


def _below_zero(bins: list[tuple[float, float, int]]) -> str:
    return wording.plain(sum(count for _, high, count in bins if high <= 0))
