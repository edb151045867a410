"""The web site (`make site`): README, these pages and the executed notebooks, by Sphinx."""

import os
from pathlib import Path

from docutils.nodes import SkipNode, image, section
from latex2mathml.converter import convert

project, author = "e2far", "the e2far authors"
html_title = "e2far: a 3D face from one photo"
root_doc = "README"
pages = {
    "Notebooks": ["reports/notebooks/*", "docs/gallery"],
    "Pages": [
        *(f"docs/{name}" for name in "photos results reproducibility face_models machines".split()),
        "docs/paper",
        "e2far/shipped/MODEL_CARD",
        "data/README",
        "CONTRIBUTING",
        "CHANGELOG",
    ],
}
include_patterns = ["README.md", *(f"{name}.*" for names in pages.values() for name in names)]

extensions = ["myst_nb", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "html_image", "tasklist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # which browsers draw without a script from elsewhere
nb_execution_mode = "off"  # the copies are executed by the stages
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]  # views that only a running Jupyter shows

html_theme = "sphinx_book_theme"
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_sidebars = {"**": ["navbar-logo.html", "sbt-sidebar-nav.html"]}
# On GitHub the site knows where it lives, and each notebook gets a button that runs it.
if where := os.environ.get("GITHUB_REPOSITORY"):
    html_theme_options = dict(
        repository_url=f"https://github.com/{where}",
        repository_branch="main",
        use_repository_button=True,
        launch_buttons=dict(binderhub_url="https://mybinder.org", notebook_interface="jupyterlab"),
    )
html_show_copyright = False
html_show_sphinx = False


def add_contents(app, page, source):
    """README's list of pages, which GitHub needs not and Sphinx asks for; the gallery's figures."""
    if page == root_doc:
        for title, names in pages.items():
            lines = ["", "```{toctree}", ":hidden:", ":glob:", f":caption: {title}", "", *names]
            source[0] += "\n".join([*lines, "```", ""])
    if page == "docs/gallery":
        source[0] += "".join(map(thumbnails, sorted(Path(app.srcdir).glob("notebooks/*.ipynb"))))


def thumbnails(notebook):
    """A heading, and the figures of the folder that `notebook` names, each a link to its page."""
    text, page = notebook.read_text(), f"../reports/notebooks/{notebook.name}"
    figures = sorted(notebook.parent.parent.glob("reports/figures/*/*.[pws]*"))
    shown = [path for path in figures if f'\\"figures\\" / \\"{path.parent.name}\\"' in text]
    links = (f"[![{x.stem}](../reports/figures/{x.parent.name}/{x.name})]({page})" for x in shown)
    return "\n".join(["", f"## [](<{page}>)", "", *links, ""])


def describe(app, doctree, page):
    """Say to those who do not see a notebook's figure which section it belongs to."""
    for part in reversed([*doctree.findall(section)]):  # the innermost first
        for figure in part.findall(image):
            figure.attributes.setdefault("alt", f"Figure: {part[0].astext()}")


def mathml(translator, node):
    """A formula, in the middle of a line or on its own, as MathML."""
    display = "inline" if node.tagname == "math" else "block"
    formula = convert(node.astext(), display=display)
    translator.body.append(formula.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;'))
    raise SkipNode


def setup(app):
    app.connect("source-read", add_contents)
    app.connect("doctree-resolved", describe)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
