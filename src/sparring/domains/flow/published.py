"""The published sets of flows: their names, and what a reader must know about their files."""

from dataclasses import replace

from sparring.domains.flow import cic_ddos2019, nsl_kdd, unsw_nb15
from sparring.domains.flow.layout import Layout
from sparring.domains.flow.schema import Schema

LAYOUTS = {
    "nsl-kdd": nsl_kdd.LAYOUT,
    "unsw-nb15": unsw_nb15.LAYOUT,
    "cic-ddos2019": cic_ddos2019.LAYOUT,
}
"""By the name of the set, which is its schema's name too."""


def layout_of(schema: Schema) -> Layout:
    """Of a published schema, also with other bounds, changes or relations; of your own: a header with its names."""
    known = LAYOUTS.get(schema.name)
    if known is not None and known.schema.names == schema.names and known.schema.label == schema.label:
        return replace(known, schema=schema)
    return Layout(schema)
