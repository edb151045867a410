"""The web site (`make site`): README, these pages and the executed notebooks, by Sphinx."""

import os

project, author = "e2far", "the e2far authors"
html_title = "e2far: a 3D face from one photo"
root_doc = "README"
pages = {
    "Notebooks": ["reports/notebooks/*"],
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
    """README's list of pages, which GitHub needs not and Sphinx asks for."""
    if page == root_doc:
        for title, names in pages.items():
            lines = ["", "```{toctree}", ":hidden:", ":glob:", f":caption: {title}", "", *names]
            source[0] += "\n".join([*lines, "```", ""])


def setup(app):
    app.connect("source-read", add_contents)
