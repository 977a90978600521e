"""UNSW-NB15 (Moustafa and Slay 2015): 42 features of flows made by Argus and Bro from generated traffic.

Files: `UNSW_NB15_training-set.csv` and `UNSW_NB15_testing-set.csv`, with a header (behind a byte order mark in some
releases) of an `id`, the features, `attack_cat` and `label` (0 or 1). The larger, 175,341 rows, was meant for training;
some releases have the two names exchanged. Columns are also found under the names of the list of features that was
published with the set (`Sload`, `smeansz`, `res_bdy_len`, `Sintpkt`). The four raw files `UNSW-NB15_1.csv` to `_4.csv`
have no header and lack `rate`, and are not read.

Verified on the real file of 82,332 rows (named training-set, as released by a mirror): every relation below holds on
all of them. The other file was not at hand. Parquet was tested on the real rows, written as parquet.

What a sender may change, declared by us: its own side only and upwards only. It can send more packets and more bytes,
later and less regularly, and hold flows open longer; it cannot take back what its attack needs. Whatever the victim
sends, times to live, handshakes, and the counts among the last hundred flows, stay as they are. The mean size of its
packets is tied to bytes and packets exactly, and so is free. Loads and rate are not: their durations are rounded to
microseconds and some rows contradict them, so that no relation holds on all of them; they are fixed, rather than
free of all ties.
"""

from sparring.domains.flow.layout import Layout
from sparring.domains.flow.schema import Change, Field, Kind, Schema

_LOGARITHMIC = ("bytes", "bit/s", "1/s", "seconds", "milliseconds", "packets")


def _field(name: str, kind: Kind, change: Change = "fixed", unit: str = "", high: float = float("inf")) -> Field:
    return Field(name, kind, change, high=high, log=unit in _LOGARITHMIC, unit=unit)


_COUNTED = ["ct_srv_src", "ct_state_ttl", "ct_dst_ltm", "ct_src_dport_ltm", "ct_dst_sport_ltm", "ct_dst_src_ltm"]

FIELDS = (
    _field("dur", "real", "up", "seconds"),
    Field("proto", "category"),
    Field("service", "category"),
    Field("state", "category"),
    _field("spkts", "integer", "up", "packets"),
    _field("dpkts", "integer", unit="packets"),
    _field("sbytes", "integer", "up", "bytes"),
    _field("dbytes", "integer", unit="bytes"),
    _field("rate", "real", unit="1/s"),
    _field("sttl", "integer", unit="hops", high=255),
    _field("dttl", "integer", unit="hops", high=255),
    _field("sload", "real", unit="bit/s"),
    _field("dload", "real", unit="bit/s"),
    _field("sloss", "integer", unit="packets"),
    _field("dloss", "integer", unit="packets"),
    _field("sinpkt", "real", "up", "milliseconds"),
    _field("dinpkt", "real", unit="milliseconds"),
    _field("sjit", "real", "up", "milliseconds"),
    _field("djit", "real", unit="milliseconds"),
    _field("swin", "integer", unit="window", high=255),
    _field("stcpb", "integer", unit="sequence", high=2.0**32 - 1),
    _field("dtcpb", "integer", unit="sequence", high=2.0**32 - 1),
    _field("dwin", "integer", unit="window", high=255),
    *(_field(name, "real", unit="seconds") for name in ("tcprtt", "synack", "ackdat")),
    _field("smean", "integer", "free", "bytes"),
    _field("dmean", "integer", unit="bytes"),
    _field("trans_depth", "integer"),
    _field("response_body_len", "integer", unit="bytes"),
    *(_field(name, "integer", unit="flows") for name in _COUNTED),
    _field("is_ftp_login", "integer"),
    _field("ct_ftp_cmd", "integer"),
    _field("ct_flw_http_mthd", "integer"),
    _field("ct_src_ltm", "integer", unit="flows"),
    _field("ct_srv_dst", "integer", unit="flows"),
    Field("is_sm_ips_ports", "flag", high=1.0),
)
"""In the order of the files. `is_ftp_login` is documented as a flag but has larger values in some rows."""

RELATIONS = (
    "smean == sbytes / spkts within 0.5",
    "dmean == dbytes / dpkts within 0.5",
    "sbytes >= 24 * spkts",
    "sbytes <= 1504 * spkts",
    "dur <= 60",
    "tcprtt == synack + ackdat",
    "dloss <= dpkts",
    "dpkts == 0 => dbytes == 0",
    "dpkts == 0 => dload == 0",
    "spkts == 1 => sload == 0",
    "state in {'INT', 'REQ'} => dpkts == 0",
    "state == 'FIN' => proto == 'tcp'",
    *(f"{name} > 0 => proto == 'tcp'" for name in ("sloss", "swin", "tcprtt", "trans_depth")),
    *(f"{name} > 0 => service == 'ftp'" for name in ("is_ftp_login", "ct_ftp_cmd")),
    "ct_src_dport_ltm <= ct_src_ltm",
    "ct_dst_sport_ltm <= ct_dst_ltm",
)
"""Each holds on every row of the file at hand; found with `measure.proposed` or tested with `measure.measured`."""

SOFT = (
    "dur > 0 => rate * dur == spkts + dpkts - 1 within 0.01",
    "dur > 0 => sload * dur <= 8 * sbytes",
    "sloss <= spkts",
    "tcprtt <= dur",
)
"""True by definition, and yet not of all rows (98.5, 99.7, 99.98 and 99.995 %), and so not imposed."""

CATEGORIES = (
    *("Analysis", "Backdoor", "DoS", "Exploits", "Fuzzers"),
    *("Generic", "Reconnaissance", "Shellcode", "Worms"),
)
"""The kinds of attack, which are the labels of a table but for `Normal`."""

SCHEMA = Schema("unsw-nb15", FIELDS, RELATIONS, "attack_cat", ("Normal",))

LAYOUT = Layout(
    SCHEMA,
    aliases={
        "smeansz": "smean",
        "dmeansz": "dmean",
        "res_bdy_len": "response_body_len",
        "sintpkt": "sinpkt",
        "dintpkt": "dinpkt",
        "ct_src__ltm": "ct_src_ltm",
    },
    spellings={"": "Normal", "Backdoors": "Backdoor"},
)

ROWS = (175_341, 82_332)
"""Of the training and of the test set, whatever the files are called."""
