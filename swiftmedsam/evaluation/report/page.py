"""The report as the text of one HTML page.

The page loads nothing: styles (`page.css`), script (`page.js`) and pictures are in it, and its
security policy forbids everything else. Without the script, only sorting, filter and slider are
missing. Every text from a file name goes through `_text`.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swiftmedsam.evaluation.report.pictures import Panel, Shown
from swiftmedsam.evaluation.score import CaseScore, by_modality
from swiftmedsam.messages import printable

STYLE, SCRIPT = (Path(__file__).with_name(f"page.{kind}") for kind in ("css", "js"))
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
COLUMNS = (  # heading, and whether its cells are numbers
    ("Case", False), ("DSC %", True), ("NSD %", True), ("Seconds", True), ("Modality", False),
    ("Objects", True),
)  # fmt: skip
CLASS_NUMBER = ' class="number"'
LAYERS = {"mask": "mask, solid", "truth": "truth, dashed", "box": "box, dotted"}
PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 220, 28, 6  # CSS pixels
WHISKER = 1.5  # interquartile ranges, Tukey's


@dataclass(frozen=True)
class Entry:
    """One case of the report."""

    name: str  # name of the file
    modality: str
    shown: Shown
    missing: bool  # whether the output is missing
    score: CaseScore | None  # None: no truth
    seconds: float | None


def worst_first(entries: Sequence[Entry]) -> list[Entry]:
    """Sort: cases without output, then cases with truth by DSC, then the others by name."""

    def key(entry: Entry) -> tuple[bool, float, str]:
        dsc = 2.0 if entry.score is None else entry.score.dsc  # above any DSC
        return not entry.missing, dsc, entry.name

    return sorted(entries, key=key)


def _text(text: str) -> str:
    """Make a file name or modality printable, and escape it for HTML."""
    return html.escape(printable(text))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _lines(view: Panel, name: str) -> str:
    """Draw boxes, truth and mask; below each line is a dark one, to be seen on bright pictures.

    `name` is the beginning of the ids; it must be unique in the page.
    """
    boxes = "".join(
        f"M{x_min:g} {y_min:g}H{x_max:g}V{y_max:g}H{x_min:g}z"
        for x_min, y_min, x_max, y_max in view.boxes
    )
    # in the paths, centres of pixels are whole numbers; in SVG they are at half pixels
    return "".join(
        f'<g transform="translate(.5 .5)"><use href="#{name}-{layer}" class="{layer} below"/>'
        f'<g class="{layer}"><path id="{name}-{layer}" d="{path}"/></g></g>'
        for layer, path in (("box", boxes), ("truth", view.truth), ("mask", view.mask))
        if path
    )


def _figure(view: Panel, name: str, alt: str) -> str:
    caption = f"<figcaption>{view.name}</figcaption>" if view.name else ""
    label = html.escape(f"{alt}, {view.name}" if view.name else alt)
    # not higher than the window, for any shape
    style = f"aspect-ratio:{view.aspect:.4g};max-width:{85 * view.aspect:.4g}vh"
    return (
        f'<figure><svg role="img" aria-label="{label}" viewBox="0 0 {view.width} {view.height}"'
        f' preserveAspectRatio="none" style="{style}">'
        f'<image href="{view.uri}" width="{view.width}" height="{view.height}"'
        f' preserveAspectRatio="none"/>{_lines(view, name)}</svg>{caption}</figure>'
    )


def _thumbnail(entry: Entry, number: int) -> str:
    """Draw the middle slice, small; it uses the contours of the large picture."""
    view = entry.shown.slices[entry.shown.middle]
    name = f"c{number}-{entry.shown.middle}"
    lines = "".join(
        f'<use href="#{name}-{layer}" class="{layer}"/>'
        for layer, path in (("truth", view.truth), ("mask", view.mask))
        if path
    )
    return (
        f'<svg class="thumbnail" aria-hidden="true" viewBox="0 0 {view.width} {view.height}">'
        f'<image href="{entry.shown.thumbnail}" width="{view.width}" height="{view.height}"/>'
        f"{lines}</svg>"
    )


def _number(value: float | None, text: str) -> str:
    """Return a cell with `text`, sorted by `value`; a dash for None."""
    known = "" if value is None else f"{value:.6g}"
    return f'<td class="number" data-value="{known}">{text or "–"}</td>'


def _row(entry: Entry, number: int) -> str:
    """Return the row of a case in the table; it is sorted by `data-value`."""
    score = entry.score
    dsc, nsd = (None, None) if score is None else (score.dsc, score.nsd)
    note = ' <strong class="note">no output</strong>' if entry.missing else ""
    link = f'<a href="#case-{number}">{_text(entry.name.removesuffix(".npz"))}</a>'
    name, modality = _text(entry.name), _text(entry.modality)
    cells = [
        f'<th scope="row" data-value="{name}"><div class="name">{_thumbnail(entry, number)}'
        f"<span>{link}{note}</span></div></th>",
        _number(dsc, _percent(dsc)),
        _number(nsd, _percent(nsd)),
        _number(entry.seconds, _seconds(entry.seconds)),
        f'<td data-value="{modality}">{modality}</td>',
        _number(entry.shown.objects, str(entry.shown.objects)),
    ]
    return f'<tr data-case="{number}" data-modality="{modality}">{"".join(cells)}</tr>'


def _facts(entry: Entry) -> str:
    """Return the line of numbers below the heading of a case."""
    *depth, height, width = entry.shown.shape
    size = f"{width} × {height} pixels" + (f", {depth[0]} slices" if depth else "")
    boxes = entry.shown.objects
    facts = [_text(entry.modality), size, f"{boxes} box" + ("" if boxes == 1 else "es")]
    if entry.missing:
        facts.append('<strong class="note">no output</strong>')
    if entry.score is None:
        facts.append("no truth")
    else:
        facts.append(f"DSC {_percent(entry.score.dsc)} %, NSD {_percent(entry.score.nsd)} %")
    if entry.seconds is not None:
        facts.append(f"{_seconds(entry.seconds)} s")
    return " · ".join(facts)


def _case(entry: Entry, number: int) -> str:
    """Return the section of a case; without the script it shows all its slices."""
    shown, title = entry.shown, printable(entry.name.removesuffix(".npz"))
    slices, planes = (
        "".join(
            _figure(view, f"c{number}-{first + i}", title) for i, view in enumerate(views)
        )
        for first, views in ((0, shown.slices), (len(shown.slices), shown.planes))
    )  # fmt: skip
    kind = "slices" if len(shown.slices) > 1 else "image"
    planes = f'<div class="planes">{planes}</div>' if planes else ""
    return (
        f'<section class="case" id="case-{number}" data-modality="{_text(entry.modality)}">'
        f"<h3>{html.escape(title)}</h3><p>{_facts(entry)}</p>"
        f'<div class="views"><div class="{kind}" data-middle="{shown.middle}">{slices}</div>'
        f"{planes}</div>"
        f'<p><a href="#cases">Back to the table</a></p></section>'
    )


def box_plot(values: Sequence[float]) -> str:
    """Return an SVG of values 0..1: median, quartiles, whiskers, and a ring for each value.

    Whiskers end at the last value within `WHISKER` interquartile ranges of the quartiles.
    """
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    reach = WHISKER * (high - low)
    inner = [value for value in values if low - reach <= value <= high + reach]
    middle = PLOT_HEIGHT / 2

    def at(value: float) -> str:
        return f"{PLOT_MARGIN + value * (PLOT_WIDTH - 2 * PLOT_MARGIN):.1f}"

    rings = "".join(f'<circle cx="{at(value)}" cy="{middle}" r="2.5"/>' for value in values)
    label = f"median {_percent(median)}, quartiles {_percent(low)} and {_percent(high)}"
    width = (high - low) * (PLOT_WIDTH - 2 * PLOT_MARGIN)
    return (
        f'<svg class="plot" role="img" aria-label="{label}" viewBox="0 0 {PLOT_WIDTH} '
        f'{PLOT_HEIGHT}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}">'
        f'<path class="scale" d="M{at(0)} 0v{PLOT_HEIGHT}M{at(0.5)} 0v{PLOT_HEIGHT}'
        f'M{at(1)} 0v{PLOT_HEIGHT}"/>'
        f'<path d="M{at(min(inner))} {middle}H{at(low)}M{at(high)} {middle}H{at(max(inner))}"/>'
        f'<rect x="{at(low)}" y="5" width="{width:.1f}" height="{PLOT_HEIGHT - 10}"/>'
        f'<path class="median" d="M{at(median)} 5v{PLOT_HEIGHT - 10}"/>{rings}</svg>'
    )


def _modalities(entries: Sequence[Entry]) -> str:
    """Return the table of modalities with box plots; "" if no case has truth."""
    scores = [entry.score for entry in entries if entry.score is not None]
    if not scores:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(modality)}</th><td class="number">{len(members)}</td>'
        f'<td class="number">{_percent(sum(row.dsc for row in members) / len(members))}</td>'
        f'<td class="number">{_percent(sum(row.nsd for row in members) / len(members))}</td>'
        f"<td>{box_plot([row.dsc for row in members])}</td></tr>"
        for modality, members in by_modality(scores).items()
    )
    return (
        "<h2>Modalities</h2><p>Means over the cases with truth; a missing output counts as 0. Box "
        "plot: quartiles and median of DSC, a ring per case, lines at 0, 50 and 100 %.</p>"
        '<div class="wide"><table><thead><tr><th scope="col">Modality</th>'
        '<th scope="col" class="number">Cases</th><th scope="col" class="number">DSC %</th>'
        '<th scope="col" class="number">NSD %</th><th scope="col">DSC by case</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _controls(entries: Sequence[Entry]) -> str:
    """Return the switches of the layers (CSS only), and the filter (shown by the script)."""
    layers = "".join(
        f'<label class="key {layer}"><input type="checkbox" id="show-{layer}" checked>'
        f'<svg aria-hidden="true" width="34" height="10"><path class="below" d="M1 5h32"/>'
        f'<path d="M1 5h32"/></svg>{words}</label>'
        for layer, words in LAYERS.items()
    )
    options = "".join(
        f'<option value="{_text(modality)}">{_text(modality)}</option>'
        for modality in sorted({entry.modality for entry in entries})
    )
    return (
        f'<div class="controls"><fieldset><legend>Lines</legend>{layers}</fieldset>'
        '<label class="script" hidden>Modality <select id="modality"><option value="">all</option>'
        f'{options}</select></label><span id="count" role="status"></span></div>'
    )


def page(entries: Sequence[Entry]) -> str:
    """Return the whole page, the worst cases first."""
    ordered = worst_first(entries)
    missing = sum(entry.missing for entry in entries)
    numbered = list(enumerate(ordered, start=1))
    headings = "".join(
        f'<th scope="col"{CLASS_NUMBER if is_number else ""}>{heading}</th>'
        for heading, is_number in COLUMNS
    )
    rows = "\n".join(_row(entry, number) for number, entry in numbered)
    sections = "\n".join(_case(entry, number) for number, entry in numbered)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>SwiftMedSAM: {len(entries)} cases</title>
<style>
{STYLE.read_text()}</style>
</head>
<body>
<header><h1>SwiftMedSAM: {len(entries)} cases</h1>
<p>{missing} without an output. Worst first. For research only, and not a medical device.</p>
</header>
<main>
{_modalities(entries)}
<h2 id="cases">Cases</h2>
{_controls(entries)}
<div class="wide"><table id="table"><thead><tr>{headings}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
<h2>Pictures</h2>
<div id="sections">
{sections}
</div>
</main>
<script>
{SCRIPT.read_text()}</script>
</body>
</html>
"""
