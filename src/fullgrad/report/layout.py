"""The page around the content: light and dark colors, one column on a telephone."""

from __future__ import annotations

from string import Template

# No address is ever fetched, and no script runs: the browser enforces it as well.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"  # noqa: E501

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1a1a1a",
    "faint": "#555555",
    "line": "#c8c8c8",
    "box": "#f4f4f4",
    "link": "#0b57a4",
    "warn": "#9c1c1c",
    "raises": "#b2182b",
    "lowers": "#2166ac",
    "total": "#404040",
}
DARK = {
    "paper": "#16181b",
    "ink": "#ececec",
    "faint": "#b0b4ba",
    "line": "#4a4f57",
    "box": "#22262b",
    "link": "#8cc2ff",
    "warn": "#ff9c9c",
    "raises": "#f4837a",
    "lowers": "#7db8ee",
    "total": "#c9c9c9",
}


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


STYLE = (
    f""":root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, sans-serif; overflow-wrap: anywhere; }
header, main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem; padding-top: .7rem;
  border-top: 2px solid var(--line); }
h3 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p, ul { max-width: 44rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; display: inline-block; padding: .5rem 1rem; }
nav ul { padding-left: 1.2rem; }
figure { margin: 1rem 0; }
figcaption, caption { color: var(--faint); font-size: .92rem; text-align: left; }
figcaption { max-width: 44rem; }
caption { padding-bottom: .4rem; max-width: min(44rem, calc(100vw - 2rem)); }
figcaption { margin-top: .4rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
img.wide { max-width: none; width: max(100%, 44rem); }
.scroll { overflow-x: auto; max-width: 100%; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .95rem; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: normal; max-width: 22rem;
  overflow-wrap: break-word; }
thead th { color: var(--faint); font-size: .88rem; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
dl > div { display: grid; grid-template-columns: 10rem minmax(0, 1fr) minmax(0, 1fr);
  gap: 0 1rem; padding: .3rem 0; border-bottom: 1px solid var(--line); }
dt, .what { color: var(--faint); } dd { margin: 0; }
.verdicts tbody th { min-width: 10rem; max-width: 13rem; overflow-wrap: anywhere; }
.waterfall { width: 100%; }
.waterfall td:nth-child(2) { width: 55%; min-width: 3rem; max-width: none; }
.waterfall tbody th { min-width: 4.6rem; overflow-wrap: anywhere; }
.waterfall tr:last-child * { font-weight: bold; }
.bar { position: relative; display: block; height: 1.1rem; background: var(--box); }
.bar span { position: absolute; top: 0; bottom: 0; min-width: 1px; }
.zero { width: 1px; background: var(--ink); }
.raises { background: var(--raises); } .lowers { background: var(--lowers); }
.total { background: var(--total); }
pre { background: var(--box); padding: .7rem; overflow-x: auto; white-space: pre-wrap; }
code { font-family: ui-monospace, monospace; font-size: .92em; }
.cards { list-style: none; padding: 0; margin: .8rem 0; max-width: none; display: grid;
  grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: 1rem .8rem; }
.cards li { font-size: .85rem; line-height: 1.35; }
.cards img, .missing { width: 100%; max-width: 7rem; margin-bottom: .2rem; image-rendering: auto; }
.missing { display: block; aspect-ratio: 1; background: var(--box); color: var(--faint);
  padding: .5rem; border-radius: 4px; }
.wider { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.wider img { max-width: none; }
.texts { list-style: none; padding: 0; max-width: none; }
.texts li { padding: .4rem 0; border-bottom: 1px solid var(--line); }
.texts p { margin: .2rem 0; max-width: none; }
.token { display: inline-block; margin: 1px; padding: .1rem .3rem; border-radius: 3px;
  font-family: ui-monospace, monospace; font-size: .85rem; text-align: center; }
.token small { display: block; font-size: .7rem; line-height: 1; }
.cards { reading-flow: grid-order; }
.order { border: 0; padding: 0; margin: .8rem 0 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1rem; }
.order legend { float: left; font-weight: bold; padding: .3rem 0; margin-right: 1rem; }
.order label { padding: .3rem 0; cursor: pointer; }
.order:has(.by-class:checked) + .cards li { order: var(--by-class); }
.order:has(.by-probability:checked) + .cards li { order: var(--by-probability); }
summary h3 { display: inline; margin: 0; }
details.photograph > div { scroll-margin-top: 4rem; }
.photograph { border-bottom: 1px solid var(--line); }
.warn { color: var(--warn); font-weight: bold; }
summary { cursor: pointer; padding: .3rem 0; color: var(--link); }
footer { margin-top: 3rem; padding-bottom: 2rem; color: var(--faint); font-size: .92rem; }
@media (max-width: 40rem) { dl > div { grid-template-columns: minmax(0, 1fr); }
  th, td { padding-right: .5rem; } .verdicts tbody th { min-width: 7rem; max-width: 7rem; }
  .waterfall { font-size: .85rem; }
  .waterfall td:nth-child(2) { width: 30%; } }
@media print { .skip { display: none; } }
"""
)

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>$title</h1>
$lead
</header>
<main id="content" tabindex="-1">
$content
</main>
<footer>
$foot
</footer>
</body>
</html>
""")
