"""What a page loads: nothing from outside, nothing it does not use, nothing that blocks it.

The theme brings an icon script of 1.5 MB for a dozen icons, loads the whole search index on
every page, and holds the page up for scripts that it needs later.  After the pages are written
this goes over them: icons become a small style sheet of masks made from the theme's own icons,
the search index stays on the search page, scripts wait until the page is there.  It may go over
a page twice without harm, since only the pages that changed are written again.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

from sphinx.application import Sphinx

# Icons that the theme's scripts put in, besides those that stand in a page.
SCRIPTED = {"fa-xmark"}
STYLES = {"solid", "brands", "regular", "lg", "sm", "xs", "fw", "spin"}

REMOVED = (
    # live code in the page (Thebe) would come from outside
    r"\s*<script>const THEBE_JS_URL[^<]*</script>",
    r'\s*<script [^>]*src="[^"]*sphinx-thebe\.js[^>]*></script>',
    r'\s*<link [^>]*href="[^"]*sphinx-thebe\.css[^>]*/>',
    r'\s*<script type="text/x-thebe-config">.*?</script>',
    r"\s*<script>kernelName = [^<]*</script>",
    # tabs are not used
    r'\s*<script [^>]*src="[^"]*design-tabs\.js[^>]*></script>',
    r'\s*<script [^>]*src="[^"]*scripts/fontawesome\.js[^>]*></script>',
    # a second and a third viewport
    r'\s*<meta name="viewport" content="width=device-width, initial-scale=1" ?/>',
    r'\s*<div id="ethical-ad-placement".*?</div>',
)
AT_ONCE = "documentation_options|maths"
SEARCH = r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>'


def trim(app: Sphinx, error: Exception | None) -> None:
    """Go over all pages; connected to `build-finished`."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(out.rglob("*.html"))}
    pages = {path: text for path, text in pages.items() if "_static" not in path.parts}
    used = set(SCRIPTED)
    for text in pages.values():
        for classes in re.findall(r'class="([^"]*\bfa-[^"]*)"', text):
            used.update(name for name in classes.split() if name.startswith("fa-"))
    sheet = icons(out, {name.removeprefix("fa-") for name in used} - STYLES)
    (out / "_static" / "icons.css").write_text(sheet, encoding="utf-8")
    version = hashlib.sha256(sheet.encode()).hexdigest()[:8]
    for path, text in pages.items():
        small = page(text, path.name == "search.html", version)
        if small != text:
            path.write_text(small, encoding="utf-8")
    for script in ("scripts/fontawesome.js", "scripts/fontawesome.js.map"):
        (out / "_static" / script).unlink(missing_ok=True)
    style = out / "_static" / "styles" / "pydata-sphinx-theme.css"
    if style.exists():
        rules = style.read_text(encoding="utf-8")
        rules = re.sub(r'(?:\.fa-[\w-]+(?:::?before)?,?)+\{content:"[^"]*"\}', "", rules)
        style.write_text(rules, encoding="utf-8")


def page(text: str, search: bool, version: str) -> str:
    """One page's HTML without what it does not need."""
    for pattern in REMOVED:
        text = re.sub(pattern, "", text, flags=re.S)
    if not search:
        text = re.sub(SEARCH, "", text)
    selector = r"\s*<script>var togglebuttonSelector = [^<]*</script>"
    repeated = re.findall(selector, text)
    if len(repeated) > 1:
        text = re.sub(selector, "", text, count=len(repeated) - 1)
    if 'class="fn-landing"' not in text:
        text = re.sub(r'\s*<script [^>]*src="[^"]*landing\.js[^>]*></script>', "", text)
    if 'class="sd-' not in text and " sd-" not in text:
        text = re.sub(r'\s*<link [^>]*href="[^"]*sphinx-design\.min\.css[^>]*/>', "", text)
    # The options must be there for the inline scripts that add to them, and what MathJax is to do
    # before MathJax; all else can wait.
    text = re.sub(rf'<script src="(?![^"]*(?:{AT_ONCE}))', '<script defer src="', text)
    text = statements(text)
    if "classList.add('fn-wait')" in text:
        # maths.js loads them once the first screen is typeset
        theme = r'<script defer (src="[^"]*scripts/(?:bootstrap|pydata-sphinx-theme)\.js)'
        text = re.sub(theme, r'<script type="text/later" \1', text)
    sheet = re.search(r'<link [^>]*href="([^"]*)book\.css[^>]*/>', text)
    if sheet and "icons.css" not in text:
        link = f'<link rel="stylesheet" type="text/css" href="{sheet[1]}icons.css?v={version}" />'
        text = text.replace(sheet[0], f"{link}\n    {sheet[0]}")
    return re.sub(r"icons\.css\?v=\w+", f"icons.css?v={version}", text)


GRADES = {"●": "check", "●●": "derive or code", "●●●": "extend"}


def statements(text: str) -> str:
    """Statements with a link to themselves, exercises with their grade, proofs with an end.

    sphinx-proof and sphinx-exercise give all their boxes the same ids; those go.
    """
    text = re.sub(r' id="(?:proof|exercise|solution)-content"', "", text)
    text = re.sub(
        r'(<div class="(?:proof|exercise)[^"]*" id="([^"]+)">\s*<p class="admonition-title">)'
        r"((?:(?!</p>|headerlink).)*)</p>",
        r'\1\3<a class="headerlink" href="#\2" title="Link to this">#</a></p>',
        text,
    )
    text = re.sub(
        r"(<section>\s*<p>)(●{1,3})(?=\s)",
        lambda m: f'{m[1]}<span class="fn-grade" title="{GRADES[m[2]]}">{m[2]}</span>',
        text,
    )
    return re.sub(
        r'<div class="proof admonition" id="([^"]*)">\s*<p>Proof\. ',
        r'<div class="proof fn-proof admonition" id="\1">'
        '\n<p><span class="fn-proof-word">Proof.</span> ',
        text,
    )


def icons(out: Path, names: set[str]) -> str:
    """A style sheet that draws `names` as masks in the text's colour.

    Their outlines come from the theme's icon script, or from the sheet made earlier, once the
    script has been taken away.
    """
    script = out / "_static" / "scripts" / "fontawesome.js"
    known = dict(previous(out / "_static" / "icons.css"))
    if script.exists():
        source = script.read_text(encoding="utf-8")
        for name in names:
            found = outline(source, name)
            if found:
                width, height, path = found
                svg = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
                    f'<path d="{path}"/></svg>'
                )
                known[name] = "data:image/svg+xml," + quote(svg, safe=" =:/")
    lost = names - known.keys()
    if lost:
        raise ValueError(f"no outline for the icons {sorted(lost)}: build from an empty folder")
    rules = [
        "i[class*=fa-],span[class*=fa-]{display:inline-block;width:1em;height:1em;"
        "background:currentColor;vertical-align:-.125em;"
        "-webkit-mask:var(--fa) center/contain no-repeat;"
        "mask:var(--fa) center/contain no-repeat}"
    ]
    rules += [f".fa-{name}{{--fa:url('{known[name]}')}}" for name in sorted(known)]
    return "\n".join(rules) + "\n"


def previous(sheet: Path) -> list[tuple[str, str]]:
    """Names and outlines of a sheet made earlier."""
    if not sheet.exists():
        return []
    return re.findall(r"\.fa-([\w-]+)\{--fa:url\('([^']*)'\)\}", sheet.read_text(encoding="utf-8"))


def outline(source: str, name: str) -> tuple[str, str, str] | None:
    """Width, height and path of an icon in the theme's script, by its name or an alias."""
    entry = r'\[(\d+),(\d+),\[([^\]]*)\],"[0-9a-f]+","(M[^"]+)"\]'
    found = re.search(rf'[{{,]"?{re.escape(name)}"?:{entry}', source)
    if not found:
        found = next(
            (
                match
                for match in re.finditer(rf'[{{,]"?[\w-]+"?:{entry}', source)
                if f'"{name}"' in match[3]
            ),
            None,
        )
    return (found[1], found[2], found[4]) if found else None
