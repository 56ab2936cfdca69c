"""Settings of Sphinx for the site; `make site` puts the other pages beside this file's copy and builds."""

from sphinx import addnodes

from cmf import __version__
from cmf.site.build import MATHS

project = "cmf"
author = "The cmf authors"
project_copyright = "the cmf authors. Code MIT; text and figures CC BY 4.0"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.mathjax"]

nb_execution_mode = "off"                      # stored outputs are shown as they are
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
mathjax_path = MATHS

html_theme = "furo"
html_title = "cmf"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["files"]
html_copy_source = html_show_sourcelink = False
add_module_names = False
smartquotes = False                            # --option is no dash
maximum_signature_line_length = 88
exclude_patterns = ["files"]


def setup(app):
    """Types in signatures link to this module's own classes only: names such as Config are several classes'."""
    def exactly(_, tree):
        for reference in tree.findall(addnodes.pending_xref):
            reference.attributes.pop("refspecific", None)

    app.connect("doctree-read", exactly)
